//! `transport-nvmf-tcp` as a file to be loaded.

sdk::export_plugin!(transport_nvmf_tcp::PLUGIN);
