//! `device-fault` as a file to be loaded.

sdk::export_plugin!(device_fault::PLUGIN);
