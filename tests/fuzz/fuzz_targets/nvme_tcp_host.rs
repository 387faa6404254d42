//! libFuzzer's entry to [`fuzz::nvme_tcp_host`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nvme_tcp_host::run(data));
