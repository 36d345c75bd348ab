use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::source::CrateEntry;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// The places of a machine on which nothing was downloaded.
fn nowhere() -> Places {
    Places { patience: Patience::none(), ..Places::default() }
}

#[test]
fn every_folder_of_datasets_is_registered_and_well_formed() {
    let folders: BTreeSet<String> = std::fs::read_dir(workspace().join("datasets"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, names().map(str::to_owned).collect(), "add the folder to REGISTRY in dataset/mod.rs");
    for listing in list(&nowhere()).unwrap() {
        assert!(!listing.descriptor.licence.is_empty() && !listing.descriptor.description.is_empty());
        assert!(listing.files.iter().all(|file| *file == Local::Absent));
    }
}

#[test]
fn unknown_names_and_splits_are_refused() {
    let error = descriptor("tinyshakespear").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown data set `tinyshakespear`; there is: rust-crates, tinyshakespeare, sst2, multi30k, wikitext-2"
    );
    let error = open("tinyshakespeare", Split::Test, Part::Code, &nowhere()).err().unwrap().to_string();
    assert_eq!(error, "data set `tinyshakespeare` has no split `test`");
}

#[test]
fn the_embedded_corpus_opens_without_any_place() {
    let code = DataConfig::default().open_in(nowhere()).unwrap();
    let bytes =
        |source: &dyn Source| -> usize { (0..source.len()).map(|index| source.get(index).unwrap().text.len()).sum() };
    let (train, valid) = (bytes(code.train.as_ref()), bytes(code.valid.as_ref()));
    assert!((5_000_000..10_000_000).contains(&train), "{train}");
    let share = valid as f64 / (train + valid) as f64;
    assert!((0.05..0.1).contains(&share), "{share}");
    assert!(code.train.get(0).unwrap().name.ends_with(".rs"));
    assert_ne!(code.train.fingerprint().unwrap(), code.valid.fingerprint().unwrap());

    let prose = open(EMBEDDED, Split::Train, Part::Prose, &nowhere()).unwrap();
    assert!(bytes(prose.as_ref()) > 1_000_000);
    let share = bytes(open(EMBEDDED, Split::Valid, Part::Prose, &nowhere()).unwrap().as_ref()) as f64
        / bytes(prose.as_ref()) as f64;
    assert!((0.05..0.15).contains(&share), "{share}");
    assert_eq!(get(EMBEDDED, &nowhere()).unwrap().len(), descriptor(EMBEDDED).unwrap().crates.len());
}

/// The packages that `fornax-data` is built from according to `Cargo.lock`: their versions by name.
fn locked_versions() -> BTreeMap<String, BTreeSet<String>> {
    let lock: toml::Table = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    let mut open = vec!["fornax-data".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(wanted) = open.pop() {
        // `name`, or `name version` where there are several.
        let (name, version) = wanted.split_once(' ').map_or((wanted.as_str(), None), |(name, it)| (name, Some(it)));
        for package in packages {
            let (found_name, found_version) = (text(package, "name"), text(package, "version"));
            let matches = found_name == name && version.is_none_or(|version| version == found_version);
            if !matches || !seen.insert((found_name.clone(), found_version.clone())) {
                continue;
            }
            versions.entry(found_name).or_default().insert(found_version);
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
            open.extend(dependencies.into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()));
        }
    }
    versions
}

/// If this fails, `Cargo.lock` has moved away from the corpus. Losses on `rust-crates` before and after are then not comparable:
/// keep the old versions if you can (`cargo update -p NAME --precise VERSION`), else put the printed lines into
/// `datasets/rust-crates/dataset.toml` and say so in the change log.
#[test]
fn the_corpus_is_what_cargo_lock_says() {
    let entries = descriptor(EMBEDDED).unwrap().crates;
    let versions = locked_versions();
    let folders = crate_folders(&nowhere());
    let mut lines = String::new();
    let mut stale = Vec::new();
    for entry in &entries {
        let version = versions.get(&entry.name).and_then(|versions| match versions.contains(&entry.version) {
            true => Some(&entry.version),
            false => versions.last(),
        });
        let current =
            version.and_then(|version| folders.digest_of(&entry.name, version).map(|it| (version.clone(), it)));
        if current != Some((entry.version.clone(), entry.sha256.clone())) {
            stale.push(entry.name.as_str());
        }
        let (version, sha256) = current.unwrap_or(("NOT-IN-CARGO-LOCK".into(), "NOT-FOUND".into()));
        let CrateEntry { name, licence, split, .. } = entry;
        lines += &format!(
            "[[crates]]\nname = \"{name}\"\nversion = \"{version}\"\nlicence = \"{licence}\"\nsplit = \"{split}\"\nsha256 = \"{sha256}\"\n\n"
        );
    }
    assert!(
        stale.is_empty(),
        "datasets/rust-crates/dataset.toml is out of step with Cargo.lock in {stale:?}. \
         If the change is meant, replace its [[crates]] by:\n\n{lines}"
    );
}

#[test]
fn tinyshakespeare_is_divided_as_nanogpt_does() {
    let Some(data) = std::env::var_os("FORNAX_DATA") else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let places = Places { data: Some(data.into()), ..nowhere() };
    let train = open("tinyshakespeare", Split::Train, Part::Code, &places).unwrap().get(0).unwrap().text;
    let valid = open("tinyshakespeare", Split::Valid, Part::Code, &places).unwrap().get(0).unwrap().text;
    assert_eq!((train.len(), valid.len()), (1_003_854, 111_540));
    assert!(train.starts_with("First Citizen:"));
}

#[test]
fn sst2_is_a_text_too() {
    let Some(data) = std::env::var_os("FORNAX_DATA") else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let places = Places { data: Some(data.into()), ..nowhere() };
    assert_eq!(get("sst2", &places).unwrap().len(), 3);
    let counts =
        [Split::Train, Split::Valid, Split::Test].map(|split| open("sst2", split, Part::Code, &places).unwrap().len());
    assert_eq!(counts, [67_349, 872, 1_821]);
}
