//! The configuration: one TOML file becomes a model whose invalid states cannot be built.

pub mod model;
