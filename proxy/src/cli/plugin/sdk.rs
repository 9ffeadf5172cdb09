//! The SDK's sources, as they were when this binary was built (`build.rs`), made to stand alone.
//!
//! In the repository the SDK's manifests inherit from the workspace's. Outside of it there is no such
//! workspace, so what they inherit is written out, and what only the repository's tests need is left out.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What the SDK's manifests hold that this module does not understand.
#[derive(Debug, thiserror::Error)]
#[error("the SDK's `{manifest}` cannot be made to stand alone: {problem}")]
pub(super) struct SdkError {
    manifest: String,
    problem: String,
}

/// Every file of the SDK, by its path in the SDK's folder.
///
/// # Errors
/// Not in a binary that passed its tests.
pub(super) fn files() -> Result<Vec<(PathBuf, String)>, SdkError> {
    let files = FILES.iter().map(|(path, text)| {
        let text = match path.strip_suffix("Cargo.toml") {
            Some(folder) => {
                standing_alone(Path::new(folder), text).map_err(|problem| SdkError {
                    manifest: (*path).to_owned(),
                    problem,
                })?
            }
            None => (*text).to_owned(),
        };
        Ok((PathBuf::from(path), text))
    });
    files.collect()
}

/// A lock file with the versions that this binary was built with: what the SDK needs is among them, and cargo
/// drops the rest.
pub(super) fn versions() -> String {
    let mut parts = LOCK.split("\n[[package]]\n");
    let head = parts.next().unwrap_or_default().to_owned();
    // The repository's own have no source.
    let fetched = parts.filter(|package| package.contains("\nsource = "));
    fetched.fold(head, |lock, package| lock + "\n[[package]]\n" + package)
}

/// The latest interface: file name and text.
pub(super) fn interface() -> impl Iterator<Item = (&'static str, &'static str)> {
    let files = FILES.iter();
    files.filter_map(|(path, text)| Some((path.strip_prefix(LATEST)?, *text)))
}

/// A manifest without inheritance; `folder` is its crate's, in the SDK's.
fn standing_alone(folder: &Path, manifest: &str) -> Result<String, String> {
    let mut manifest: Table = manifest.parse().map_err(|error| format!("{error}"))?;
    let workspace: Table = WORKSPACE.parse().map_err(|error| format!("{error}"))?;
    let workspace = table(&workspace, "workspace")?;
    let package = manifest.get_mut("package").and_then(Value::as_table_mut);
    for (key, value) in package.ok_or("no `package`")? {
        if inherits(value) {
            let inherited = table(workspace, "package")?.get(key);
            *value = inherited
                .cloned()
                .ok_or_else(|| format!("no `package.{key}`"))?;
        }
    }
    for left_out in ["lints", "dev-dependencies", "bench", "test"] {
        manifest.remove(left_out);
    }
    let known = table(workspace, "dependencies")?;
    let mut lists: Vec<&mut Value> = Vec::new();
    for (key, value) in &mut manifest {
        match key.as_str() {
            "dependencies" | "build-dependencies" => lists.push(value),
            "target" => {
                let targets = value.as_table_mut().into_iter().flat_map(Table::iter_mut);
                for target in targets.filter_map(|(_, target)| target.as_table_mut()) {
                    target.remove("dev-dependencies");
                    lists.extend(target.iter_mut().map(|(_, list)| list));
                }
            }
            _ => {}
        }
    }
    let dependencies = lists.into_iter().filter_map(Value::as_table_mut);
    for (name, dependency) in dependencies.flat_map(Table::iter_mut) {
        if inherits(dependency) {
            let inherited = known.get(name).ok_or_else(|| format!("no `{name}`"))?;
            *dependency = Value::Table(inherited_dependency(folder, dependency, inherited)?);
        }
    }
    toml::to_string(&manifest).map_err(|error| error.to_string())
}

fn inherits(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// What the workspace says of a dependency, and what the crate adds to it.
fn inherited_dependency(folder: &Path, own: &Value, inherited: &Value) -> Result<Table, String> {
    let mut made = match inherited {
        Value::Table(table) => table.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    if let Some(path) = made.get("path").and_then(Value::as_str) {
        let path = Path::new(path)
            .strip_prefix(SDK)
            .map_err(|_| format!("`{path}` is not of the SDK"))?;
        let up = folder.iter().map(|_| Path::new(".."));
        let path: PathBuf = up.chain([path]).collect();
        made.insert("path".into(), path.to_string_lossy().into_owned().into());
    }
    for (key, value) in own.as_table().into_iter().flatten() {
        match (key.as_str(), made.get_mut(key), value) {
            ("workspace", ..) => {}
            ("features", Some(Value::Array(features)), Value::Array(more)) => {
                features.extend_from_slice(more);
            }
            _ => drop(made.insert(key.clone(), value.clone())),
        }
    }
    Ok(made)
}

fn table<'a>(of: &'a Table, key: &str) -> Result<&'a Table, String> {
    let table = of.get(key).and_then(Value::as_table);
    table.ok_or_else(|| format!("no `{key}` in the workspace"))
}

/// Path in `plugin-sdk`, and text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");
const LOCK: &str = include_str!("../../../../Cargo.lock");
/// The SDK's folder in the workspace.
const SDK: &str = "plugin-sdk";
const LATEST: &str = "wit/0.2.0/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_whole_and_inherits_nothing() {
        let files = files().unwrap();
        let text = |path: &str| {
            let file = files.iter().find(|(found, _)| found == Path::new(path));
            &file.unwrap_or_else(|| panic!("no {path}")).1
        };
        for path in ["src/lib.rs", "rules/src/lib.rs", "wit/0.2.0/plugin.wit"] {
            assert!(!text(path).is_empty());
        }
        let manifests = files
            .iter()
            .filter(|(path, _)| path.ends_with("Cargo.toml"));
        for (path, manifest) in manifests {
            assert!(
                !manifest.contains("workspace"),
                "{}: {manifest}",
                path.display()
            );
            let manifest: Table = manifest.parse().unwrap();
            let package = manifest["package"].as_table().unwrap();
            assert_eq!(
                package["edition"].as_str(),
                Some("2024"),
                "{}",
                path.display()
            );
        }
        let sdk: Table = text("Cargo.toml").parse().unwrap();
        let rules = &sdk["dependencies"]["sluicegate-plugin-rules"];
        assert_eq!(rules["path"].as_str(), Some("rules"));
        let serde = sdk["dependencies"]["serde"].as_table().unwrap();
        assert_eq!(serde["version"].as_str(), Some("1"));
    }

    #[test]
    fn a_crate_adds_to_what_it_inherits() {
        let own: Table = r#"a = { workspace = true, features = ["x"], optional = true }"#
            .parse()
            .unwrap();
        let known: Table = r#"a = { path = "plugin-sdk/rules", features = ["y"] }"#
            .parse()
            .unwrap();
        let made = inherited_dependency(Path::new("services"), &own["a"], &known["a"]).unwrap();
        let expect: Table = r#"path = "../rules"
features = ["y", "x"]
optional = true"#
            .parse()
            .unwrap();
        assert_eq!(made, expect);
        let elsewhere: Table = r#"a = { path = "proxy" }"#.parse().unwrap();
        assert!(inherited_dependency(Path::new(""), &own["a"], &elsewhere["a"]).is_err());
    }

    #[test]
    fn the_lock_file_names_what_was_fetched_and_nothing_of_ours() {
        let lock: Table = versions().parse().unwrap();
        assert_eq!(lock["version"].as_integer(), Some(4));
        let packages = lock["package"].as_array().unwrap();
        let names: Vec<_> = packages
            .iter()
            .filter_map(|package| package["name"].as_str())
            .collect();
        assert!(names.contains(&"wit-bindgen") && names.contains(&"serde"));
        assert!(!names.iter().any(|name| name.starts_with("sluicegate")));
        assert!(
            packages
                .iter()
                .all(|package| package.get("checksum").is_some())
        );
    }

    #[test]
    fn the_interface_is_the_latest() {
        let names: Vec<_> = interface().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["host.wit", "http.wit", "messages.wit", "plugin.wit"]
        );
    }
}
