//! `device-uring` as a file to be loaded.

sdk::export_plugin!(device_uring::PLUGIN);
