#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rcompose_engine_fuzz::build::ignore(data));
