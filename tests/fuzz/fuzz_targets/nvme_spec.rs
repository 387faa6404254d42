//! libFuzzer's entry to [`fuzz::nvme_spec`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nvme_spec::run(data));
