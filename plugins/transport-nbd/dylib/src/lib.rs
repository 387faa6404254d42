//! `transport-nbd` as a file to be loaded.

sdk::export_plugin!(transport_nbd::PLUGIN);
