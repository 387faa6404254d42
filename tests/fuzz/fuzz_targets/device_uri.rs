//! libFuzzer's entry to [`fuzz::device_uri`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::device_uri::run(data));
