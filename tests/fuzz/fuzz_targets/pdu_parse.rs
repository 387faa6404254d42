//! libFuzzer's entry to [`fuzz::pdu_parse`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::pdu_parse::run(data));
