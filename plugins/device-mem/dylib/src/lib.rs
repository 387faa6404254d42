//! `device-mem` as a file to be loaded.

sdk::export_plugin!(device_mem::PLUGIN);
