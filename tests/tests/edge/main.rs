//! The daemon's edge to this kernel: programs are loaded, maps pinned and adopted, hooks attached, swapped, watched
//! and taken off, flows swept and reset, through the library's public interface. Each test has network and mount
//! namespaces of its own ([`place`]).

mod adopt;
mod attach;
mod capabilities;
mod events;
mod interfaces;
mod place;
mod reset;
mod sweep;
