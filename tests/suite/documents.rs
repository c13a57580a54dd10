//! What the documents say of Larder is true: links, routes, metrics and log lines. The http table and the recipes have tests of
//! their own.

use std::collections::BTreeSet;
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
    let mut code = String::new();
    collect(&root().join("src"), &mut code);
    let rows: Vec<Vec<&str>> = states.lines().map(|line| line.split(" | ").collect()).collect();
    let logged: Vec<&str> = rows.iter().filter(|row| row.len() == 7).map(|row| row[1]).skip(1).collect();
    assert!(logged.len() > 10);
    for line in logged.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        assert!(code.contains(line), "nothing logs {line:?}");
    }
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

fn collect(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), into),
            false => into.push_str(&fs::read_to_string(entry.path()).unwrap()),
        }
    }
}
