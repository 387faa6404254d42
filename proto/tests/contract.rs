//! The wire contract of `mayastor.v1`: file, service, method, enum and field names, numbers, types and labels of all we
//! carry are those of `contract.txt`.
//!
//! That file was made from a description of the contract that is independent of our `.proto` files. It changes when
//! OpenEBS adds to the contract, and then only by new lines: a line that goes or changes breaks clients in the field.

use std::fmt::Write;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
};

const PACKAGE: &str = "mayastor.v1";

#[test]
fn the_descriptors_are_the_contract() {
    let found = contract(&descriptors());
    let wanted = include_str!("contract.txt");
    for (line, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(found, wanted, "line {} of contract.txt", line + 1);
    }
    assert_eq!(found, wanted, "one is longer than the other");
}

#[test]
fn every_kind_of_change_shows() {
    type Change = fn(&mut DescriptorProto);
    let changes: [(&str, Change); 6] = [
        ("a field's name", |message| {
            message.field[0].name = Some("x".into());
        }),
        ("a field's number", |message| {
            message.field[0].number = Some(99);
        }),
        ("a field's type", |message| {
            message.field[0].set_type(Type::Bytes);
        }),
        ("a field's label", |message| {
            message.field[0].set_label(Label::Repeated);
        }),
        ("a field's presence", |message| {
            message.field[0].proto3_optional = Some(true);
        }),
        ("a message's name", |message| {
            message.name = Some("X".into());
        }),
    ];
    let before = contract(&descriptors());
    for (what, change) in changes {
        let mut set = descriptors();
        let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
        let bdev = messages.find(|message| message.name() == "Bdev");
        change(bdev.expect("Bdev"));
        assert_ne!(contract(&set), before, "{what}");
    }
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("descriptors")
}

/// Files, and in each the services, enums and messages, by name; methods, values and fields in the order of declaration.
fn contract(set: &FileDescriptorSet) -> String {
    let mut files: Vec<_> = set.file.iter().filter(|f| f.package() == PACKAGE).collect();
    files.sort_by_key(|file| file.name());
    let texts: Vec<String> = files.into_iter().map(file).collect();
    texts.join("\n")
}

fn file(file: &FileDescriptorProto) -> String {
    let mut parts = Vec::new();
    for service in &file.service {
        let rows = service.method.iter().map(method).collect();
        parts.push((0, service.name().to_owned(), rows));
    }
    for each in &file.enum_type {
        parts.push((1, each.name().to_owned(), values(each)));
    }
    for each in &file.message_type {
        messages("", each, &mut parts);
    }
    parts.sort();
    let mut text = format!("file {}\n", file.name());
    for (kind, name, rows) in parts {
        let kind = ["service", "enum", "message"][kind];
        writeln!(text, "{kind} {name}").expect("a string");
        for row in rows {
            writeln!(text, "  {row}").expect("a string");
        }
    }
    text
}

fn method(method: &MethodDescriptorProto) -> String {
    let stream = |streams| if streams { "stream " } else { "" };
    format!(
        "{}({}{}) returns ({}{})",
        method.name(),
        stream(method.client_streaming()),
        short(method.input_type()),
        stream(method.server_streaming()),
        short(method.output_type()),
    )
}

fn values(each: &EnumDescriptorProto) -> Vec<String> {
    let row = |value: &prost_types::EnumValueDescriptorProto| {
        format!("{} {}", value.number(), value.name())
    };
    each.value.iter().map(row).collect()
}

/// A message and those inside it. Kinds are numbered as in [`file`].
fn messages(outer: &str, each: &DescriptorProto, parts: &mut Vec<(usize, String, Vec<String>)>) {
    let name = format!("{outer}{}", each.name());
    for nested in &each.nested_type {
        messages(&format!("{name}."), nested, parts);
    }
    for nested in &each.enum_type {
        parts.push((1, format!("{name}.{}", nested.name()), values(nested)));
    }
    let rows = each.field.iter().map(|field| row(each, field)).collect();
    parts.push((2, name, rows));
}

fn row(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match (field.label(), field.proto3_optional(), field.oneof_index) {
        (Label::Repeated, _, _) => "repeated".to_owned(),
        (_, true, _) => "optional".to_owned(),
        (_, false, Some(oneof)) => {
            format!("oneof {}", message.oneof_decl[oneof as usize].name())
        }
        (_, false, None) => "plain".to_owned(),
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => short(field.type_name()).to_owned(),
        scalar => {
            let name = scalar.as_str_name().trim_start_matches("TYPE_");
            name.to_ascii_lowercase()
        }
    };
    format!("{} {} {label} {kind}", field.number(), field.name())
}

/// A type's name without the package, as the files write it.
fn short(name: &str) -> &str {
    name.trim_start_matches('.')
        .trim_start_matches("mayastor.v1.")
}
