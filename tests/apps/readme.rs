//! What the README of a recipe shows, tried: its rules are those of `rules.toml`, and its commands print what it says.

use std::process::Command;

use crate::recipe::Recipe;

/// Requires both. Commands are the lines that begin with `    $ `; what follows one, up to the next or to the end of the
/// block, is what it prints, but for empty lines; `…` stands for anything, and `ttl=` has any number.
#[track_caller]
pub fn is_true(recipe: Recipe) {
    recipe.rules_are_good();
    let text = std::fs::read_to_string(recipe.directory().join("README.md")).unwrap();
    let (_, rules) = text.split_once("```toml\n").expect("the README shows the rules");
    let (rules, _) = rules.split_once("```").unwrap();
    assert_eq!(rules, recipe.rules(), "the README and rules.toml say the same");
    for program in [recipe.prepare, recipe.run] {
        let program = program.join(" ");
        assert!(text.contains(&program), "the README says to run {program}");
    }

    let served = recipe.behind_larder();
    let examples = examples(&text);
    assert!(!examples.is_empty(), "the README shows what curl prints");
    for (command, expected) in examples {
        let here = command.replace("127.0.0.1:8080", &served.larder.address.to_string());
        let output = Command::new("sh").args(["-c", &here]).current_dir(&served.app.dir).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "").replace("\n\n", "\n");
        let printed = printed.replace(&served.larder.address.to_string(), "127.0.0.1:8080");
        let pattern = regex::Regex::new(&pattern(&expected)).unwrap();
        assert!(pattern.is_match(&printed), "{command}\nprints\n{printed}\nand not\n{expected}\n{output:?}");
    }
}

fn examples(text: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            in_block &= line.is_empty() && examples.last().is_some();
            continue;
        };
        match line.strip_prefix("$ ") {
            Some(command) if command.starts_with("curl") || command.starts_with("wget") => {
                examples.push((command.to_owned(), String::new()));
                in_block = true;
            }
            Some(_) => in_block = false,
            None if in_block => {
                let (_, expected) = examples.last_mut().unwrap();
                expected.push_str(line);
                expected.push('\n');
            }
            None => {}
        }
    }
    examples
}

fn pattern(expected: &str) -> String {
    // A line of its own may be no line at all.
    let escaped =
        regex::escape(expected.trim_end()).replace("\n…\n", "\n(?s:(?:.*?\n)?)").replace('…', "(?s:.*?)");
    let ttl = regex::Regex::new(r"ttl=\d+").unwrap();
    format!(r"\A\s*{}\s*\z", ttl.replace_all(&escaped, r"ttl=\d+"))
}
