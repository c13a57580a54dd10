//! Keeps all tests in the build.

use std::path::Path;

// Pending: the features are being built.

#[test]
fn every_file_of_tests_is_built() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http");
    let declared = std::fs::read_to_string(here.join("mod.rs")).unwrap();
    for file in std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let is_source = file.extension().is_some_and(|ending| ending == "rs");
        assert!(
            !is_source || name == "mod" || declared.contains(&format!("mod {name};")),
            "{name}.rs is not in mod.rs"
        );
    }
}
