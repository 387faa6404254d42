//! libFuzzer's entry to [`fuzz::pool_image`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::pool_image::run(data));
