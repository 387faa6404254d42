//! Renders `src/pins.rs`.

use std::fmt::Write;

use crate::model::Model;

/// Tables with a stamp, by number. A number is never used for another table.
pub(crate) const TABLES: &[(u32, &str, &str)] = &[
    (1, "PLUGIN", "IoePlugin"),
    (2, "ENGINE", "IoeEngineTable"),
    (3, "HOST", "IoeHostTable"),
    (4, "DRIVER", "IoeDriverTable"),
    (5, "DEVICE", "IoeDeviceTable"),
    (6, "QUEUE", "IoeQueueTable"),
    (7, "FABRIC_DRIVER", "IoeFabricDriverTable"),
    (8, "FABRIC", "IoeFabricTable"),
    (9, "EXPORT_DRIVER", "IoeExportDriverTable"),
    (10, "EXPORT_SERVER", "IoeExportServerTable"),
    (11, "EXPORT", "IoeExportTable"),
    (12, "POOL_DRIVER", "IoePoolDriverTable"),
    (13, "POOL", "IoePoolTable"),
];

/// Size and hash of tables in minor version 0, where they have changed since: table, size, hash.
pub(crate) const BASES: &[(&str, usize, u64)] = &[("IoeEngineTable", 72, 0x742b_6d18_4e1f_fa3a)];

/// One stamp: number, size, hash, size and hash in minor version 0.
pub(crate) fn stamps(model: &Model) -> Vec<(u32, usize, u64, usize, u64)> {
    let stamp = |(number, _, name): &(u32, &str, &str)| {
        let (size, hash) = (model.layout(name).1, model.hash(name));
        let base = BASES.iter().find(|(table, ..)| table == name);
        let (base_size, base_hash) = base.map_or((size, hash), |(_, size, hash)| (*size, *hash));
        (*number, size, hash, base_size, base_hash)
    };
    TABLES.iter().map(stamp).collect()
}

pub(crate) fn render(model: &Model) -> String {
    let mut out = String::from(
        "//! Sizes, offsets and hashes of the contract. Generated from the other files by `tests/generated`; a change here is a\n\
         //! change of the contract.\n\nuse core::mem::offset_of;\n\nuse crate::*;\n\n",
    );
    for (number, constant, name) in TABLES {
        let _ = writeln!(out, "/// Number of the stamp of [`{name}`].");
        let _ = writeln!(out, "pub const IOE_TABLE_{constant}: u32 = {number};");
    }
    let stamps = stamps(model);
    let _ = writeln!(out, "\n/// What the tables look like, for the descriptor.");
    let _ = writeln!(
        out,
        "pub const IOE_STAMPS: [IoeStamp; {}] = [",
        stamps.len()
    );
    for (table, size, hash, base_size, base_hash) in stamps {
        let _ = writeln!(
            out,
            "    IoeStamp {{\n        table: {table},\n        size: {size},\n        hash: {},\n        base_size: {base_size},\n        reserved: 0,\n        base_hash: {},\n    }},",
            grouped(hash),
            grouped(base_hash)
        );
    }
    out.push_str("];\n\n");
    for name in &model.names {
        let (offsets, size) = model.layout(name);
        let _ = writeln!(out, "const _: () = assert!(size_of::<{name}>() == {size});");
        for (field, offset) in offsets {
            let line = format!("const _: () = assert!(offset_of!({name}, {field}) == {offset});");
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn grouped(hash: u64) -> String {
    let hex = format!("{hash:016x}");
    format!(
        "0x{}_{}_{}_{}",
        &hex[..4],
        &hex[4..8],
        &hex[8..12],
        &hex[12..]
    )
}
