//! The source files of the workspace's crates and the imports between them, as the parser of Rust reads them. Code that
//! is compiled for tests alone is left out.
//!
//! A path leads to the file of the innermost module that it names; one that goes through a re-export leads to the file
//! that re-exports. A call of a method of `Commands` leads to the file of its `impl` block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, ImplItem, Item, Meta, UseTree};

/// Files by the files that they import, all as paths from the root of the repository.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// The crates of the workspace: name in code, folder.
pub const CRATES: [(&str, &str); 10] = [
    ("fulexo_domain", "domain"),
    ("fulexo_bcrypt", "commands/bcrypt"),
    ("fulexo_database", "commands/database"),
    ("fulexo_commands", "commands"),
    ("fulexo_tlog", "projections/tlog"),
    ("fulexo_projections", "projections"),
    ("fulexo_dev_servers", "api/dev-servers"),
    ("fulexo_node", "api/node"),
    ("fulexo_ops", "api/ops"),
    ("fulexo_api", "api"),
];

/// The type whose methods count as imports of the file that defines them.
const FACADE: &str = "Commands";

type Module = Vec<String>;

struct Source {
    file: String,
    module: Module,
    items: Vec<Item>,
}

/// Reads the source files of all crates.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for (name, folder) in CRATES {
        for main in ["lib.rs", "main.rs"] {
            let path = root.join(folder).join("src").join(main);
            if path.exists() {
                // The library and the program of one crate are separate crates to the compiler.
                let name = if main == "lib.rs" { name.to_owned() } else { format!("{name}/main") };
                read(&root, &path, vec![name], &mut sources);
            }
        }
    }
    sources
}

/// Returns the structs, enums and traits by name, each with the files that define one of that name.
pub fn types() -> BTreeMap<String, Vec<String>> {
    let mut types = BTreeMap::new();
    for Source { file, items, .. } in sources() {
        for item in items {
            let name = match item {
                Item::Struct(item) => item.ident,
                Item::Enum(item) => item.ident,
                Item::Trait(item) => item.ident,
                _ => continue,
            };
            types.entry(name.to_string()).or_insert_with(Vec::new).push(file.clone());
        }
    }
    types
}

/// Returns the imports of all files of all crates.
pub fn imports() -> Imports {
    let sources = sources();
    let modules: BTreeMap<Module, String> =
        sources.iter().map(|source| (source.module.clone(), source.file.clone())).collect();
    let methods: BTreeMap<String, String> = sources
        .iter()
        .flat_map(|source| facade_methods(&source.items).into_iter().map(|method| (method, source.file.clone())))
        .collect();

    sources
        .iter()
        .map(|source| {
            let mut found = BTreeSet::new();
            let mut scope = Scope { module: source.module.clone(), modules: &modules, found: &mut found };
            scope.items(&source.items);
            if source.module[0] == "fulexo_commands" {
                for item in &source.items {
                    let receivers: &[&str] = if is_facade(item) { &["self", "commands"] } else { &["commands"] };
                    calls(item.to_token_stream(), receivers, &methods, &mut found);
                }
            }
            found.remove(&source.file);
            (source.file.clone(), found)
        })
        .collect()
}

/// Returns groups of files that import each other, directly or around; the largest first.
pub fn circles(imports: &Imports) -> Vec<Vec<&str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (file.as_str(), reach(imports, file))).collect();
    let mut circles: Vec<Vec<&str>> = Vec::new();
    for (file, reached) in &reach {
        if reached.contains(file) && !circles.iter().any(|circle| circle.contains(file)) {
            circles.push(reached.iter().copied().filter(|other| reach[other].contains(file)).collect());
        }
    }
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

fn reach<'a>(imports: &'a Imports, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten() {
            if reached.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    reached
}

fn read(root: &Path, path: &Path, module: Module, sources: &mut Vec<Source>) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let items: Vec<Item> = syn::parse_file(&text).unwrap().items.into_iter().filter(|item| !for_tests(item)).collect();
    for item in &items {
        if let Item::Mod(child) = item
            && child.content.is_none()
        {
            let name = child.ident.to_string();
            read(root, &file_of(path, &name), [module.clone(), vec![name]].concat(), sources);
        }
    }
    let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    sources.push(Source { file, module, items });
}

fn file_of(parent: &Path, name: &str) -> PathBuf {
    let stem = parent.file_stem().unwrap();
    let folder = if ["lib", "main", "mod"].iter().any(|own| stem == *own) {
        parent.parent().unwrap().to_owned()
    } else {
        parent.with_extension("")
    };
    let file = folder.join(format!("{name}.rs"));
    if file.exists() { file } else { folder.join(name).join("mod.rs") }
}

fn for_tests(item: &Item) -> bool {
    attributes(item).iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        Meta::Path(_) | Meta::NameValue(_) => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the names of the facade's methods that these items define.
fn facade_methods(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Impl(block) if is_facade(item) => Some(&block.items),
            _ => None,
        })
        .flatten()
        .filter_map(|item| match item {
            ImplItem::Fn(method) => Some(method.sig.ident.to_string()),
            _ => None,
        })
        .collect()
}

fn is_facade(item: &Item) -> bool {
    matches!(item, Item::Impl(block) if block.self_ty.to_token_stream().to_string() == FACADE)
}

/// Collects calls of the facade's methods on these receivers: `self` in its own blocks, `commands` anywhere.
fn calls(tokens: TokenStream, receivers: &[&str], methods: &BTreeMap<String, String>, found: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for window in tokens.windows(4) {
        if let [TokenTree::Ident(receiver), TokenTree::Punct(dot), TokenTree::Ident(name), TokenTree::Group(_)] = window
            && receivers.iter().any(|known| receiver == known)
            && dot.as_char() == '.'
            && let Some(file) = methods.get(&name.to_string())
        {
            found.insert(file.clone());
        }
    }
    for token in tokens {
        if let TokenTree::Group(group) = token {
            calls(group.stream(), receivers, methods, found);
        }
    }
}

struct Scope<'a> {
    module: Module,
    modules: &'a BTreeMap<Module, String>,
    found: &'a mut BTreeSet<String>,
}

impl Scope<'_> {
    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Use(item) => self.tree(&mut Vec::new(), &item.tree),
                Item::Mod(item) => {
                    if let Some((_, inner)) = &item.content {
                        self.items(inner);
                    }
                }
                item => self.paths(item.to_token_stream()),
            }
        }
    }

    fn tree(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(prefix, tree)),
            UseTree::Glob(_) => self.path(prefix),
            UseTree::Name(name) => self.path(&[prefix.as_slice(), &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.path(&[prefix.as_slice(), &[name.ident.to_string()]].concat()),
        }
    }

    /// Collects the paths in the tokens of an item, those in macros as well.
    fn paths(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut index = 0;
        while index < tokens.len() {
            match &tokens[index] {
                TokenTree::Ident(first) => {
                    let mut path = vec![first.to_string()];
                    while let [TokenTree::Punct(one), TokenTree::Punct(two), TokenTree::Ident(next), ..] =
                        &tokens[index + 1..]
                        && one.as_char() == ':'
                        && two.as_char() == ':'
                    {
                        path.push(next.to_string());
                        index += 3;
                    }
                    if path.len() > 1 {
                        self.path(&path);
                    }
                }
                TokenTree::Group(group) => self.paths(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            index += 1;
        }
    }

    fn path(&mut self, path: &[String]) {
        let Some((first, mut rest)) = path.split_first() else { return };
        let mut module = match first.as_str() {
            "crate" => vec![self.module[0].clone()],
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len() - 1].to_vec(),
            name if CRATES.iter().any(|(known, _)| *known == name) => vec![name.to_owned()],
            name => [self.module.clone(), vec![name.to_owned()]].concat(),
        };
        while let Some((next, after)) = rest.split_first() {
            if next == "super" {
                module.pop();
            } else if let longer = [module.clone(), vec![next.clone()]].concat()
                && self.modules.contains_key(&longer)
            {
                module = longer;
            } else {
                break;
            }
            rest = after;
        }
        if let Some(file) = self.modules.get(&module) {
            self.found.insert(file.clone());
        }
    }
}
