//! `tests/perf/run` works: no test says how fast anything is, since machines differ.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_benchmark_prints_a_row_for_each_scenario_and_its_hits_are_hits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("measurements.json");
    let output = Command::new(root.join("tests/perf/run"))
        .args(["--quick", "--debug", "--scenarios", "hot1k,post", "--targets", "larder,hyper"])
        .args(["--binary", env!("CARGO_BIN_EXE_larder"), "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let (table, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{table}{errors}", output.status);
    for start in
        ["| scenario |  | hyper | larder |", "| `hot1k` | CPU, × bare hyper | ", "| `post` | requests/s | "]
    {
        assert!(table.lines().any(|line| line.starts_with(start)), "{start} is missing in\n{table}");
    }

    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let measured = |scenario: &str, target: &str| -> (u64, u64) {
        let rows = found["measurements"].as_array().unwrap();
        let row = rows.iter().find(|row| row["scenario"] == scenario && row["target"] == target).unwrap();
        assert_eq!(row["fault"], Value::Null, "{row}");
        (row["requests"].as_u64().unwrap(), row["origin"].as_u64().unwrap())
    };
    let (hits, fetched) = measured("hot1k", "larder");
    assert!(hits > 0 && fetched == 0, "{fetched} of {hits} requests went to the origin");
    let (writes, forwarded) = measured("post", "larder");
    assert!(forwarded >= writes, "{forwarded} of {writes} writes went to the origin");
    measured("post", "hyper");
}
