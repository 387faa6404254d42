//! libFuzzer's entry to [`fuzz::plugin_elf`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::plugin_elf::run(data));
