//! The structs of the contract as their source declares them: fields, layout, hash.

use std::collections::BTreeMap;
use std::path::Path;

use quote::ToTokens;

/// All structs, by name.
pub(crate) struct Model {
    structs: BTreeMap<String, Vec<Field>>,
    /// Names in the order of declaration, file by file.
    pub(crate) names: Vec<String>,
}

struct Field {
    name: String,
    /// Type as text without white space.
    ty: String,
}

impl Model {
    /// Reads every file but the generated one.
    pub(crate) fn read(directory: &Path) -> Self {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .expect("the sources are there")
            .map(|entry| entry.expect("a directory entry").path())
            .filter(|path| !path.ends_with("pins.rs"))
            .collect();
        files.sort();
        let mut model = Self {
            structs: BTreeMap::new(),
            names: Vec::new(),
        };
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            let parsed = syn::parse_file(&text).expect("the sources are Rust");
            for item in parsed.items {
                if let syn::Item::Struct(item) = item {
                    model.add(&item);
                }
            }
        }
        model
    }

    fn add(&mut self, item: &syn::ItemStruct) {
        let is_c = item
            .attrs
            .iter()
            .any(|attr| attr.to_token_stream().to_string().replace(' ', "") == "#[repr(C)]");
        assert!(is_c, "{} is not repr(C)", item.ident);
        let fields = item.fields.iter().map(|field| Field {
            name: field.ident.as_ref().expect("named fields").to_string(),
            ty: text(&field.ty),
        });
        self.names.push(item.ident.to_string());
        self.structs
            .insert(item.ident.to_string(), fields.collect());
    }

    /// For tests: the same contract with a field called otherwise.
    pub(crate) fn rename_field(&mut self, of: &str, from: &str, to: &str) {
        let fields = self.structs.get_mut(of).expect("a struct");
        let field = fields.iter_mut().find(|field| field.name == from);
        field.expect("a field").name = to.to_owned();
    }

    /// For tests: the same contract with one field more.
    pub(crate) fn append_field(&mut self, of: &str, name: &str, ty: &str) {
        self.structs.get_mut(of).expect("a struct").push(Field {
            name: name.to_owned(),
            ty: ty.to_owned(),
        });
    }

    /// Offsets of the fields by name, and the size, on a 64-bit system.
    pub(crate) fn layout(&self, name: &str) -> (Vec<(String, usize)>, usize) {
        let (mut at, mut align) = (0usize, 1usize);
        let mut offsets = Vec::new();
        for field in &self.structs[name] {
            let (size, alignment) = self.measure(&field.ty);
            at = at.next_multiple_of(alignment);
            offsets.push((field.name.clone(), at));
            at += size;
            align = align.max(alignment);
        }
        (offsets, at.next_multiple_of(align))
    }

    fn measure(&self, ty: &str) -> (usize, usize) {
        match ty {
            "u8" => (1, 1),
            "u16" => (2, 2),
            "u32" | "i32" => (4, 4),
            "u64" | "i64" | "usize" => (8, 8),
            _ if ty.starts_with('*') || ty.starts_with("Option<unsafeextern\"C\"fn") => (8, 8),
            _ if ty.starts_with('[') => {
                let (item, count) = ty[1..ty.len() - 1].rsplit_once(';').expect("an array");
                let count = match count {
                    "IOE_STAMPS_MAX" => abi::IOE_STAMPS_MAX,
                    number => number.parse().expect("a number of items"),
                };
                let (size, align) = self.measure(item);
                (size * count, align)
            }
            name => {
                let fields = self.structs.get(name);
                let fields = fields.unwrap_or_else(|| panic!("{name} may not cross the line"));
                let align = fields.iter().map(|field| self.measure(&field.ty).1).max();
                (self.layout(name).1, align.expect("fields"))
            }
        }
    }

    /// FNV-1a over the fields of a table and of the values it mentions. Other tables have a hash of their own.
    pub(crate) fn hash(&self, name: &str) -> u64 {
        let mut text = String::new();
        let mut seen = vec![name.to_owned()];
        let mut at = 0;
        while at < seen.len() {
            let current = seen[at].clone();
            text.push_str(&format!("{current}{{"));
            for field in &self.structs[&current] {
                text.push_str(&format!("{}:{};", field.name, field.ty));
                for mentioned in mentions(&field.ty) {
                    let is_value = !mentioned.ends_with("Table");
                    if is_value
                        && self.structs.contains_key(mentioned)
                        && !seen.iter().any(|s| s == mentioned)
                    {
                        seen.push(mentioned.to_owned());
                    }
                }
            }
            text.push('}');
            at += 1;
        }
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

fn text(ty: &syn::Type) -> String {
    let mut text = ty.to_token_stream().to_string();
    text.retain(|c| !c.is_whitespace());
    // A trailing comma is a matter of formatting.
    text.replace(",)", ")").replace(",>", ">")
}

fn mentions(ty: &str) -> impl Iterator<Item = &str> {
    ty.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.find("Ioe").map(|at| &word[at..]))
}
