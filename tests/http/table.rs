//! Checks the tables of `README.md`: every row names existing tests, and every test of this directory is in a row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Tests by the name of their file without its ending.
type Tests = BTreeMap<String, BTreeSet<String>>;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests of all files of a directory of tests.
fn tests_of(name: &str) -> Tests {
    let files = std::fs::read_dir(directory(name)).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let mut tests = Tests::new();
    for path in sources {
        let topic = path.file_stem().unwrap().to_string_lossy().into_owned();
        tests.entry(topic).or_default().extend(functions(&read(&path)));
    }
    tests
}

/// Test functions of one source: those for both tiers, and those marked as tests.
fn functions(source: &str) -> Vec<String> {
    let mut marked = false;
    let mut found = Vec::new();
    for line in source.lines() {
        if let Some((name, rest)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('('))
            && (marked || rest == "tier: Tier) {")
        {
            found.push(name.to_owned());
        }
        marked = line == "#[test]";
    }
    found
}

/// A row of the table: its cells, and the number of its line.
struct Row {
    line: usize,
    cells: Vec<String>,
}

impl Row {
    /// `file::function` of each test that the row names.
    fn tests(&self) -> Vec<(String, String)> {
        let named =
            self.cells.last().map_or("", String::as_str).split(',').map(|test| test.trim().trim_matches('`'));
        named
            .filter_map(|test| test.split_once("::"))
            .map(|(file, test)| (file.to_owned(), test.to_owned()))
            .collect()
    }
}

/// The rows, and those under `## Not implemented`.
fn rows() -> (Vec<Row>, Vec<Row>) {
    let page = read(&directory("http/README.md"));
    let (mut obeyed, mut others, mut below) = (Vec::new(), Vec::new(), false);
    for (number, line) in page.lines().enumerate() {
        below = if line.starts_with("## ") { line == "## Not implemented" } else { below };
        let Some(inner) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let cells: Vec<_> = inner.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        if cells[0] != "section" {
            if below { &mut others } else { &mut obeyed }.push(Row { line: number + 1, cells });
        }
    }
    (obeyed, others)
}

#[test]
fn every_row_names_existing_tests() {
    let (here, suite) = (tests_of("http"), tests_of("suite"));
    let (obeyed, _) = rows();
    assert!(!obeyed.is_empty());
    for row in obeyed {
        assert_eq!(row.cells.len(), 5, "README.md:{}: {:?}", row.line, row.cells);
        assert!(!row.tests().is_empty(), "README.md:{}: the row names no test", row.line);
        for (file, test) in row.tests() {
            let known =
                [&here, &suite].iter().any(|tests| tests.get(&file).is_some_and(|tests| tests.contains(&test)));
            assert!(known, "README.md:{}: there is no test {file}::{test}", row.line);
        }
    }
}

#[test]
fn every_test_is_in_a_row() {
    let (obeyed, _) = rows();
    let named: BTreeSet<_> = obeyed.iter().flat_map(Row::tests).collect();
    let tests = tests_of("http").into_iter().filter(|(file, _)| file != "table");
    let tests = tests.flat_map(|(file, tests)| tests.into_iter().map(move |test| (file.clone(), test)));
    let missing: Vec<_> = tests.filter(|test| !named.contains(test)).collect();
    assert!(missing.is_empty(), "README.md has no row for these tests: {missing:#?}");
}

#[test]
fn unimplemented_rows_give_a_reason() {
    for row in rows().1 {
        assert_eq!(row.cells.len(), 4, "README.md:{}: {:?}", row.line, row.cells);
        assert!(row.cells[3].split(' ').count() > 4, "README.md:{}: no reason: {:?}", row.line, row.cells[3]);
    }
}

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
