//! libFuzzer's entry to [`fuzz::nvme_tcp_controller`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nvme_tcp_controller::run(data));
