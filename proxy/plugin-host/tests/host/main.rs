//! The host with real plugins: built from source by cargo, as an author's would be.

mod calls;
mod limits;
mod load;
mod support;
