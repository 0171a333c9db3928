//! The fuzz targets and their corpus do not rot.

use std::path::Path;
use std::process::Command;

/// Class 16 of the field notes: a length or an offset from a peer is used as it is.
#[test]
fn every_target_takes_any_bytes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let output = Command::new(env!("CARGO_BIN_EXE_bus-torture"))
        .args(["fuzz", "--json", "--seconds", "5", "--corpus"])
        .arg(&corpus)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, _) in bus_torture::fuzz::targets::ALL {
        let runs = said[format!("fuzz.{name}.runs")].as_u64().unwrap();
        assert!(runs > 50, "{name}: {text}");
        assert!(corpus.join(name).is_dir(), "{name} has no corpus");
        let driver = corpus.join(format!("../fuzz_targets/{name}.rs"));
        assert!(driver.is_file(), "{name} has no libFuzzer driver");
    }
}
