//! The house keeps its shape: files and rooms depend on each other in one
//! direction only, and a file holds one idea.
//!
//! A file is a module; a room is a directory (or a single file) of `src/`. What a
//! module uses of its own children does not count: they are parts of it. Tests
//! inside files do not count either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, ItemUse, UseTree};

/// Lines of code that a file may have, tests, comments and blank lines apart.
const LONGEST: usize = 500;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[(
    "worker/path.rs",
    "the packet path is read top to bottom in one file",
)];

type Module = Vec<String>;
type Edges = BTreeMap<Module, BTreeSet<Module>>;

fn source_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find_sources(directory, &mut found);
    found
}

fn find_sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are module `a::b`.
fn module_of(path: &Path, src: &Path) -> Module {
    let relative = path
        .strip_prefix(src)
        .expect("below src")
        .with_extension("");
    let mut module: Module = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|argument| argument == "test")
    })
}

/// All paths that a file names.
#[derive(Default)]
struct Paths(Vec<Module>);

impl Paths {
    fn add_tree(&mut self, tree: &UseTree, before: &mut Module) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
                before.pop();
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.0.push([&before[..], &[name]].concat());
            }
            UseTree::Rename(rename) => {
                let name = rename.ident.to_string();
                self.0.push([&before[..], &[name]].concat());
            }
            UseTree::Glob(_) => self.0.push(before.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, before);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&item.tree, &mut Module::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|it| it.ident.to_string());
        self.0.push(segments.collect());
        visit::visit_path(self, path);
    }
}

/// The module that a path of `module` leads to or into.
fn resolve(path: &[String], module: &Module, all: &BTreeMap<Module, File>) -> Option<Module> {
    let root = match module.first().map(String::as_str) {
        Some("bin") => &module[..module.len().min(2)],
        _ => &[],
    };
    let (mut at, rest) = match path.first()?.as_str() {
        "crate" => (root.to_vec(), &path[1..]),
        "fullgate" => (Module::new(), &path[1..]),
        "self" => (module.clone(), &path[1..]),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let depth = module.len().checked_sub(ups)?;
            (module[..depth].to_vec(), &path[ups..])
        }
        _ => (module.clone(), path),
    };
    let mut found = None;
    for part in rest {
        at.push(part.clone());
        if !all.contains_key(&at) {
            break;
        }
        found = Some(at.clone());
    }
    found
}

fn house() -> (BTreeMap<Module, File>, Edges) {
    let src = source_directory();
    let is_test = |module: &Module| module.iter().any(|part| part == "tests");
    let files: BTreeMap<Module, File> = sources(&src)
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("text");
            let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            (module_of(path, &src), file)
        })
        .filter(|(module, _)| !is_test(module))
        .collect();
    let mut edges = Edges::new();
    for (module, file) in &files {
        let mut named = Paths::default();
        named.visit_file(file);
        let targets = named
            .0
            .iter()
            .filter_map(|path| resolve(path, module, &files));
        let targets = targets.filter(|target| !target.starts_with(module));
        edges.insert(module.clone(), targets.collect());
    }
    (files, edges)
}

/// Everything that leads back to itself, with all that is on the way.
fn circles(edges: &Edges) -> BTreeSet<BTreeSet<String>> {
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Module> = edges.get(from).into_iter().flatten().collect();
        while let Some(at) = next.pop() {
            if seen.insert(at) {
                next.extend(edges.get(at).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, _> = edges.keys().map(|from| (from, reach(from))).collect();
    let leads = |from: &Module, to: &Module| reached.get(from).is_some_and(|it| it.contains(to));
    let circle = |of: &Module| {
        let on_it = edges.keys().filter(|it| leads(of, it) && leads(it, of));
        on_it.map(|it| it.join("::")).collect::<BTreeSet<_>>()
    };
    let on_some = edges.keys().filter(|it| leads(it, it));
    on_some.map(circle).collect()
}

#[test]
fn no_files_depend_on_each_other_in_a_circle() {
    let (files, edges) = house();
    assert!(files.len() > 100, "{} files", files.len());
    let found = circles(&edges);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn rooms_depend_downward_only() {
    let (_, edges) = house();
    let room = |module: &Module| module.first().cloned().into_iter().collect::<Module>();
    let mut rooms = Edges::new();
    for (module, targets) in edges {
        let from = room(&module);
        let targets = targets.iter().map(&room).filter(|to| *to != from);
        rooms.entry(from.clone()).or_default().extend(targets);
    }
    let found = circles(&rooms);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_circle_is_seen() {
    let module = |name: &str| vec![name.to_owned()];
    let edge = |from, to: &[&str]| (module(from), to.iter().map(|to| module(to)).collect());
    let edges: Edges = [
        edge("a", &["b"]),
        edge("b", &["c"]),
        edge("c", &["a", "d"]),
        edge("d", &[]),
    ]
    .into();
    let circle: BTreeSet<_> = ["a", "b", "c"].map(String::from).into();
    assert_eq!(circles(&edges), [circle].into());
}

/// Lines of code before the tests of a file.
fn length(text: &str) -> usize {
    let code = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[test]
fn long_files_have_a_reason() {
    let src = source_directory();
    let mut wrong = Vec::new();
    for path in &sources(&src) {
        let name = path
            .strip_prefix(&src)
            .expect("below src")
            .to_string_lossy();
        if name.contains("tests") {
            continue;
        }
        let long = length(&fs::read_to_string(path).expect("text")) > LONGEST;
        let may_be = LONG.iter().any(|(file, _)| *file == name);
        if long != may_be {
            wrong.push(format!("{name}: long: {long}, has a reason: {may_be}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
