//! The repository's own texts: the book is complete, links point at something, and every config can be used.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files below `folder` with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn recipes() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join("recipes")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("Cargo.toml").is_file()).collect()
}

fn pages() -> Vec<PathBuf> {
    let root = repository();
    let mut pages = files(&root.join("docs/src"), "md");
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md"].map(|name| root.join(name)));
    pages.extend(recipes().into_iter().map(|recipe| recipe.join("README.md")));
    pages
}

/// The targets of a page's links: `[text](target)` and `[name]: target`, outside of code.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.trim_start().starts_with("```") {
            continue;
        }
        // What stands between backticks is code: every other piece.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let inline =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned());
        found.extend(inline);
        if let Some((_, target)) = text.split_once("]: ").filter(|_| text.starts_with('[')) {
            found.push(target.to_owned());
        }
    }
    found
}

/// The name that mdBook and GitHub give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_anchor(page: &Path, name: &str) -> bool {
    let text = fs::read_to_string(page).unwrap();
    let mut headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.any(|heading| anchor(heading) == name)
}

#[test]
fn links_are_found_in_text_and_not_in_code() {
    let text = "See [a](a.md) and [`b`](b/c.md#d).\n```\n[no](no.md)\n```\n`[no](no.md)` but [e](e.md)\n[f]: f.md\n";
    assert_eq!(links(text), ["a.md", "b/c.md#d", "e.md", "f.md"]);
    assert_eq!(anchor("What a run leaves: `best/`"), "what-a-run-leaves-best");
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let folder = repository().join("docs/src");
    let listed = links(&fs::read_to_string(folder.join("SUMMARY.md")).unwrap());
    for page in files(&folder, "md") {
        let name = page.strip_prefix(&folder).unwrap().to_str().unwrap().replace('\\', "/");
        assert!(name == "SUMMARY.md" || listed.contains(&name), "docs/src/{name} is not in SUMMARY.md");
    }
    assert!(!listed.is_empty());
}

#[test]
fn every_relative_link_points_at_something() {
    let mut broken = Vec::new();
    for page in pages() {
        let Ok(text) = fs::read_to_string(&page) else {
            broken.push(format!("{} is missing", page.display()));
            continue;
        };
        for link in links(&text).iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, name) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            if !target.exists() || !name.is_empty() && is_page && !has_anchor(&target, name) {
                broken.push(format!("{}: {link}", page.strip_prefix(repository()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_config_of_a_recipe_can_be_used() {
    let mut checked = 0;
    for recipe in recipes() {
        for path in files(&recipe.join("configs"), "toml") {
            // A new recipe adds its own config type here.
            match recipe.file_name().unwrap().to_str().unwrap() {
                "gpt-lm" => check_gpt_lm(&load(&path)),
                "bert-mlm" => check_bert_mlm(&load(&path)),
                "glue" => check_glue(&load(&path)),
                "t5-text2text" => check_t5_text2text(&load(&path)),
                "translate" => check_translate(&load(&path)),
                other => panic!("how are the configs of {other} read?"),
            }
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            checked += 1;
        }
    }
    assert!(checked >= 23, "{checked} configs");
}

fn load<C: serde::de::DeserializeOwned>(path: &Path) -> C {
    fornax_cli::load(Some(path), "", &[]).unwrap_or_else(|error| panic!("{error}")).config
}

fn check_gpt_lm(config: &gpt_lm::Config) -> Result<(), Box<dyn std::error::Error>> {
    config.validate()?;
    config.data.check()?;
    Ok(config.model.gpt2(config.tokenizer.vocab_size, config.objective.seq_len).validate()?)
}

fn check_bert_mlm(config: &bert_mlm::Config) -> Result<(), Box<dyn std::error::Error>> {
    config.validate()?;
    config.data.check()?;
    config.objective.masking.validate()?;
    Ok(config.model.bert(config.tokenizer.vocab_size, config.objective.seq_len).validate()?)
}

fn check_glue(config: &glue::Config) -> Result<(), Box<dyn std::error::Error>> {
    config.validate()?;
    Ok(config.model.bert(config.tokenizer.vocab_size, config.data.max_len).validate()?)
}

fn check_t5_text2text(config: &t5_text2text::Config) -> Result<(), Box<dyn std::error::Error>> {
    config.validate()?;
    config.data.text().check()?;
    Ok(config.model.t5(config.tokenizer.vocab_size, 0, 1).validate()?)
}

fn check_translate(config: &translate::Config) -> Result<(), Box<dyn std::error::Error>> {
    config.validate()?;
    let target = config.tokenizer.vocab_size;
    let source = config.source_tokenizer.as_ref().map_or(target, |tokenizer| tokenizer.vocab_size);
    let max_len = config.data.max_source_len.max(config.data.max_target_len);
    Ok(config.model.transformer(source, target, max_len, 0).validate()?)
}
