//! The control socket: HTTP/1 and JSON over a Unix socket that only root can open, and to read a group
//! if one is configured.
//!
//! `GET /v1/status`, `/v1/workloads`, `/v1/flows`, `/v1/identities`, `/v1/hosts`, `/v1/counters` and `/metrics`;
//! `POST /v1/explain` and `/v1/reload`.

pub mod backend;
pub mod client;
mod http;
mod peer;
pub mod protocol;
mod routes;
pub mod server;
mod socket;

#[cfg(test)]
mod tests;

pub use backend::{Answer, Backend, BackendError};
pub use client::{Client, ClientError};
pub use http::{MAX_BODY_BYTES, MAX_CONNECTIONS};
pub use server::{serve, serve_metrics, serve_stream};
pub use socket::{ControlSocket, SocketError, find_group};

/// The control socket's file name inside the instance's run folder.
pub const SOCKET_NAME: &str = "control.sock";
