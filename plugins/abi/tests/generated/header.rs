//! Renders `include/io_engine_plugin.h`.

use std::fmt::Write;
use std::path::Path;

use cbindgen::{Config, DocumentationStyle, ExportConfig, Language, Style};

use crate::model::Model;
use crate::pins;

const HEAD: &str = "/* Plugins of io-engine: the binary contract. Generated from plugins/abi; what the calls mean is in\n \
   docs/plugin-abi.md. Needs C11 and a 64-bit system with the System V ABI. */\n#ifndef IO_ENGINE_PLUGIN_H\n#define IO_ENGINE_PLUGIN_H";

/// What C authors need beside the declarations.
const TAIL: &str = r#"
/* Gives a buffer back. A buffer goes back once: here, in IoeDone.buf, or with a file operation. */
static inline void ioe_buf_release(const IoeBuf *buf) {
  if (buf->data && buf->release) buf->release(buf->owner, buf->data, buf->capacity);
}

/* Text for a call, from a string literal or any terminated string. */
static inline IoeStr ioe_str(const char *text) {
  IoeStr str = {(const uint8_t *)text, 0};
  while (text[str.len]) str.len++;
  return str;
}

/* Writes terminated text into room of the caller's. */
static inline void ioe_text_set(IoeText *room, const char *text) {
  room->len = 0;
  while (text[room->len] && room->len < room->capacity) {
    room->data[room->len] = (uint8_t)text[room->len];
    room->len++;
  }
}

/* Who this plugin is; once, at file scope. Texts are literals shorter than their fields. `plugin_kinds` is of IOE_KIND_*. */
#define IOE_DESCRIBE(plugin_name, plugin_version, plugin_vendor, plugin_kinds, plugin_serves)          \
  __attribute__((section(".note.io-engine"), used, aligned(8))) static const IoeNote ioe_note = {      \
      sizeof("io-engine"),                                                                              \
      sizeof(IoeDescriptor),                                                                            \
      IOE_NOTE_TYPE,                                                                                    \
      "io-engine",                                                                                      \
      {.magic = IOE_MAGIC,                                                                              \
       .size = sizeof(IoeDescriptor),                                                                   \
       .abi_major = IOE_ABI_MAJOR,                                                                      \
       .abi_minor = IOE_ABI_MINOR,                                                                      \
       .needs_minor = 0,                                                                                \
       .stamp_count = IOE_STAMP_COUNT,                                                                  \
       .kinds = (plugin_kinds),                                                                         \
       .flags = 0,                                                                                      \
       .name = plugin_name,                                                                             \
       .version = plugin_version,                                                                       \
       .vendor = plugin_vendor,                                                                         \
       .serves = plugin_serves,                                                                         \
       .stamps = IOE_STAMPS}}

/* The one function a plugin exports. */
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default"))) int32_t io_engine_plugin_v1(const IoeEngine *engine, IoePlugin *plugin);

#endif  /* IO_ENGINE_PLUGIN_H */
"#;

pub(crate) fn render(root: &Path, model: &Model) -> String {
    let mut include = model.names.clone();
    include.push("IoeEntry".to_owned());
    let mut tail = String::from("/* What the tables look like. */\n");
    let stamps = pins::stamps(model);
    let _ = writeln!(tail, "#define IOE_STAMP_COUNT {}", stamps.len());
    tail.push_str("#define IOE_STAMPS \\\n  { \\\n");
    for (table, size, hash, base_size, base_hash) in stamps {
        let _ = writeln!(
            tail,
            "    {{{table}, {size}, 0x{hash:016x}ull, {base_size}, 0, 0x{base_hash:016x}ull}}, \\"
        );
    }
    tail.push_str("  }\n");
    tail.push_str(TAIL);
    let config = Config {
        language: Language::C,
        header: Some(HEAD.to_owned()),
        trailer: Some(tail),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        cpp_compat: true,
        documentation_style: DocumentationStyle::C99,
        style: Style::Both,
        usize_is_size_t: true,
        export: ExportConfig {
            include,
            exclude: vec!["IOE_STAMPS".to_owned()],
            ..ExportConfig::default()
        },
        ..Config::default()
    };
    let mut builder = cbindgen::Builder::new().with_config(config);
    let mut files: Vec<_> = std::fs::read_dir(root.join("src"))
        .expect("the sources are there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| !path.ends_with("lib.rs"))
        .collect();
    files.sort();
    for file in files {
        builder = builder.with_src(file);
    }
    let mut text = Vec::new();
    builder.generate().expect("a header").write(&mut text);
    String::from_utf8(text).expect("UTF-8")
}
