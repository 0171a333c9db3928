//! One run: three processes are started, watched, and gone at the end, however it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{self, Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum as _;
use indicatif::ProgressBar;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::PART;
use super::links::Kind;
use super::meter::{Measured, Told};
use super::parts::Role;
use super::report;
use crate::interrupt::Interrupt;

/// How often to look whether a process died or a signal came.
const TICK: Duration = Duration::from_millis(20);
/// How much longer than its time a run may take, to start and to drain.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be run.
pub struct Pipeline<'a> {
    pub kind: Kind,
    /// Messages a second; 0 for as many as go through.
    pub rate: u64,
    pub time: Duration,
    /// The broker's.
    pub socket: &'a Path,
    pub interrupt: &'a Interrupt,
}

/// The processes that run, in the order of the pipeline. Dropping them ends them.
struct Parts(Vec<(&'static str, Child)>);

impl Drop for Parts {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // Both fail only for a process that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pipeline<'_> {
    /// Runs it; none if a signal came first.
    pub fn run(&self) -> anyhow::Result<Option<Measured>> {
        let live = ProgressBar::new_spinner();
        let (mut parts, told) = self.start()?;
        let told = listen(told)?;
        let deadline = Instant::now() + self.time + PATIENCE;
        let mut all = None;
        let result = loop {
            if self.interrupt.came().is_some() {
                break Ok(None);
            }
            // Looked at before what was told, so that what was told before the last end is seen.
            let ended = match parts.ended() {
                Ok(ended) => ended,
                Err(error) => break Err(error),
            };
            match told.recv_timeout(TICK) {
                Ok(Told::SoFar(measured)) => {
                    live.set_message(report::live(self.kind, self.rate, &measured));
                    live.tick();
                }
                Ok(Told::All(measured)) => all = Some(measured),
                Err(RecvTimeoutError::Disconnected) if ended => {
                    break all.take().map(Some).context("the sink told no result");
                }
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= deadline {
                break Err(anyhow!("the pipeline did not come to its end"));
            }
        };
        live.finish_and_clear();
        result
    }

    /// Starts the three, linked by their standard input and output where the link is no topic.
    fn start(&self) -> anyhow::Result<(Parts, ChildStdout)> {
        let (ticks_in, ticks_out) = self.link()?;
        let (signals_in, signals_out) = self.link()?;
        let mut parts = Parts(Vec::with_capacity(3));
        parts.start(self, Role::Source, Stdio::null(), ticks_out)?;
        parts.start(self, Role::Stage, ticks_in, signals_out)?;
        parts.start(self, Role::Sink, signals_in, Stdio::piped())?;
        let sink = parts.0.last_mut().and_then(|(_, sink)| sink.stdout.take());
        Ok((parts, sink.context("the sink has no standard output")?))
    }

    /// The receiving and the sending end of a link.
    fn link(&self) -> anyhow::Result<(Stdio, Stdio)> {
        Ok(match self.kind {
            Kind::Bus => (Stdio::null(), Stdio::null()),
            Kind::Sockets => {
                let (one, two) = socketpair(
                    AddressFamily::Unix,
                    SockType::SeqPacket,
                    None,
                    SockFlag::SOCK_CLOEXEC,
                )
                .context("cannot make a socket")?;
                (one.into(), two.into())
            }
            Kind::Pipes => {
                let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
                (reader.into(), writer.into())
            }
        })
    }
}

impl Parts {
    fn start(
        &mut self,
        pipeline: &Pipeline<'_>,
        role: Role,
        input: Stdio,
        output: Stdio,
    ) -> anyhow::Result<()> {
        let name = match role {
            Role::Source => "source",
            Role::Stage => "stage",
            Role::Sink => "sink",
        };
        let kind = pipeline.kind.to_possible_value();
        let kind = kind.context("a link without a name")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let child = Command::new(program)
            .args([PART, name, kind.get_name()])
            .args(["--parent", &process::id().to_string()])
            .args(["--millis", &pipeline.time.as_millis().to_string()])
            .args(["--rate", &pipeline.rate.to_string()])
            .env("BUS_SOCKET", pipeline.socket)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            // Ctrl-C is for this process, which then ends them.
            .process_group(0)
            .spawn();
        let child = child.with_context(|| format!("cannot start the {name}"))?;
        self.0.push((name, child));
        Ok(())
    }

    /// Whether all have ended well. One that was killed is what the others fail of, so it is named first.
    fn ended(&mut self) -> anyhow::Result<bool> {
        let mut failed = None;
        let mut running = false;
        for (name, child) in &mut self.0 {
            match child.try_wait().context("cannot ask for a process")? {
                None => running = true,
                Some(status) if status.success() => {}
                Some(status) if status.signal().is_some() => return Err(died(name, child, status)),
                Some(status) => failed = failed.or(Some((name, child, status))),
            }
        }
        match failed {
            Some((name, child, status)) => Err(died(name, child, status)),
            None => Ok(!running),
        }
    }
}

fn died(name: &str, child: &mut Child, status: ExitStatus) -> anyhow::Error {
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        // Without it the status still says something.
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let said = said.trim().trim_start_matches("bus: ");
    let said = if said.is_empty() {
        "it said nothing"
    } else {
        said
    };
    let id = child.id();
    anyhow!("the demo's {name} (process {id}) died, {status}: {said}")
}

/// Reads what the sink tells on a thread, so that waiting for it ends with the time.
fn listen(told: ChildStdout) -> anyhow::Result<Receiver<Told>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("bus-demo-told".into())
        .spawn(move || {
            for line in BufReader::new(told).lines() {
                let told = line.ok().and_then(|l| serde_json::from_str(&l).ok());
                // A line that is none, or nobody who listens: the end of the channel says so.
                match told.map(|told| sender.send(told)) {
                    Some(Ok(())) => {}
                    _ => return,
                }
            }
        })
        .context("cannot listen to the sink")?;
    Ok(receiver)
}
