//! What the documents say of Larder is true: links, routes, metrics, log lines and the map of the modules. The http table and the
//! recipes have tests of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Plan, Upstream};

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "deploy/operations.md",
    "deploy/production.md",
    "deploy/caching.md",
    "examples/recipes/README.md",
];

#[test]
fn the_readme_has_at_most_1500_words() {
    assert!(read("README.md").split_whitespace().count() <= 1500);
}

#[test]
fn links_in_documents_lead_to_files_and_headings() {
    let link = regex::Regex::new(r"\]\(([^)#:]*)(?:#([^)]*))?\)").unwrap();
    for document in DOCUMENTS {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap();
        for found in link.captures_iter(&text) {
            let file = match &found[1] {
                "" => PathBuf::from(document),
                relative => folder.join(relative),
            };
            assert!(root().join(&file).exists(), "{document}: there is no {}", file.display());
            if let Some(heading) = found.get(2) {
                let headings = headings(&read(file.to_str().unwrap()));
                assert!(headings.contains(heading.as_str()), "{document}: {} not in {headings:?}", &found[0]);
            }
        }
    }
}

#[test]
fn operations_lists_every_route_of_the_admin() {
    let (upstream, page) = (Upstream::start(), read("deploy/operations.md"));
    let routes = Plan::new(&upstream.url()).start().admin_get("/").json();
    let routes = routes["routes"].as_array().unwrap();
    assert!(routes.len() > 10);
    for route in routes {
        let call = format!("`{} {}`", route["method"].as_str().unwrap(), route["path"].as_str().unwrap());
        assert!(page.contains(&call), "{call}");
    }
}

#[test]
fn operations_lists_every_metric_and_no_other() {
    let (page, code) = (read("deploy/operations.md"), read("src/metrics.rs") + &read("src/metrics/exposition.rs"));
    // The exposition adds units and `_total`, and leaves out what has no value yet.
    let bare = |name: &str| {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let unit = ["_seconds", "_bytes", "_info"].into_iter().find_map(|unit| name.strip_suffix(unit));
        unit.unwrap_or(name).to_owned()
    };
    let names = |pattern: &str, text: &str| -> BTreeSet<String> {
        regex::Regex::new(pattern).unwrap().captures_iter(text).map(|found| bare(&found[1])).collect()
    };
    let registered = names(r#"(?m)(?:^ +[\w ]+: .* = |registry\.register\()"(\w+)""#, &code);
    assert!(registered.len() > 30);
    assert_eq!(names(r"larder_(\w+)", &page), registered);
}

#[test]
fn log_lines_in_the_table_of_states_are_those_of_the_code() {
    let page = read("deploy/operations.md");
    let (_, states) = page.split_once("\n## States\n").unwrap();
    let (states, _) = states.split_once("\n## ").unwrap();
    let code: String = files(&root().join("src")).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let rows: Vec<Vec<&str>> = states.lines().map(|line| line.split(" | ").collect()).collect();
    let logged: Vec<&str> = rows.iter().filter(|row| row.len() == 7).map(|row| row[1]).skip(1).collect();
    assert!(logged.len() > 10);
    for line in logged.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        assert!(code.contains(line), "nothing logs {line:?}");
    }
}

/// Tests may use anything.
#[test]
fn modules_use_only_those_of_their_row_of_the_map_and_of_the_rows_below() {
    let lib = read("src/lib.rs");
    let (_, map) = lib.split_once("//! # The map\n").unwrap();
    let (map, _) = map.split_once("//! # Glossary\n").unwrap();
    let name = regex::Regex::new(r"`(?:mod@)?(\w+)`").unwrap();
    let cells = map.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" | ").next());
    let rows: BTreeMap<String, usize> = cells
        .enumerate()
        .flat_map(|(row, cell)| name.captures_iter(cell).map(move |found| (found[1].to_owned(), row)))
        .collect();
    let used = regex::Regex::new(r"\bcrate::(\w+)").unwrap();
    let mut uses = 0;
    for file in files(&root().join("src")) {
        let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
        let module = path.iter().next().unwrap().to_str().unwrap();
        let is_code = file.extension().is_some_and(|it| it == "rs") && path.iter().all(|part| part != "tests");
        let Some(row) = rows.get(module).filter(|_| is_code) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        let (code, _) = text.split_once("\n#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for found in used.captures_iter(line) {
                uses += 1;
                let is_allowed = rows.get(&found[1]).is_some_and(|other| other >= row);
                assert!(is_allowed, "{} uses {}, which is not below it in the map", path.display(), &found[1]);
            }
        }
    }
    assert!(rows.len() > 30 && uses > 500, "{rows:?} {uses}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The anchors of a page, as GitHub makes them.
fn headings(page: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let text = line.strip_prefix('#')?.trim_start_matches('#').trim();
        let kept = text.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
        Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
    };
    page.lines().filter_map(heading).collect()
}

/// All files in a folder and the folders in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
