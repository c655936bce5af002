#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| _ = rcompose_engine_fuzz::build::dockerfile(data));
