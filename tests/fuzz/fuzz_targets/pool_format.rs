//! libFuzzer's entry to [`fuzz::pool_format`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::pool_format::run(data));
