//! The daemon: the engine's hands. It reads the kernel's events, runs the engine's jobs, applies
//! what the engine says, in order, and answers the control socket.
//!
//! One task owns engine and datapath, so that nothing happens in between two outputs. Everything
//! that reaches it comes through bounded queues.
//!
//! Start: lock and socket -> keys and policy -> maps and programs -> what is pinned is adopted ->
//! state of the workloads -> policy -> programs attached -> ready. Stop: the datapath stays as it
//! is and goes on enforcing.
//!
//! A panic never leaves half a daemon: that of a verification or of a reload costs its own result;
//! that of the event loop, a ring's reader or the control socket ends the daemon, for a supervisor to
//! start the next. The datapath enforces all the while.

mod allowance;
mod apply;
mod attach;
mod backend;
mod clock;
mod core;
mod files;
mod hosts;
mod learned;
mod log;
pub mod memory;
mod overrides;
mod pool;
mod reload;
mod report;
mod start;
mod tree;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::control::{ControlSocket, serve, serve_metrics};
use crate::fault::{self, KillPoint};
use crate::service;

use self::backend::Remote;
use self::core::Core;

/// Questions of the control socket that wait for the event loop.
const REQUEST_QUEUE: usize = 64;

/// Runs the enforcer until SIGTERM or SIGINT.
///
/// # Errors
/// Another daemon has the instance; a key, certificate or policy file is refused; the kernel
/// refuses the datapath.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let socket =
        ControlSocket::bind(&config.instance_run_dir(), config.control.group.as_deref()).await?;
    fault::reached(KillPoint::SocketBound);
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let (sender, requests) = mpsc::channel(REQUEST_QUEUE);
    let (stop, stopped) = watch::channel(false);
    let core = Core::start(&config, requests)?;
    let metrics = listen_for_metrics(&config).await?;
    let backend = Arc::new(Remote::new(sender));
    let mut tasks = JoinSet::new();
    tasks.spawn(core.run(stopped.clone()));
    tasks.spawn({
        let (backend, stopped) = (Arc::clone(&backend), stopped.clone());
        async move {
            serve(&socket, backend, until(stopped)).await;
            Ok(())
        }
    });
    if let Some(listener) = metrics {
        tasks.spawn(async move {
            serve_metrics(&listener, backend, until(stopped)).await;
            Ok(())
        });
    }
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = tasks.join_next() => ended,
    };
    service::stopping();
    // Nobody listens any more if all of them ended already.
    let _ = stop.send(true);
    if let Some(ended) = ended {
        ended.context("a part of the daemon panicked")??;
        anyhow::bail!("a part of the daemon ended before its time");
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the daemon panicked")??;
    }
    tracing::info!("stopped; the datapath goes on enforcing, `enforcer detach` removes it");
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which stops as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn listen_for_metrics(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("metrics.listen {address}: cannot listen there")).map(Some)
}
