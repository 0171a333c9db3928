//! Which policy a broker follows, from its start through every reload.
//!
//! Promises: a policy with a mistake never takes the place of one without; everything that is wrong with it is logged with line and column. A
//! reload decides about who comes; it does nothing to those who are there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Result;
use crate::endpoint::Endpoint;
use crate::policy::{Policy, Quota, Source};
use crate::systemd::{self, State};

/// The policy that is to be followed, and where it comes from.
#[derive(Debug)]
pub(crate) struct Governed {
    own: u32,
    source: Option<Source>,
    /// Read, and not followed yet.
    policy: Option<Policy>,
}

impl Governed {
    /// By no file: the broker's own user only.
    pub(crate) fn by_default() -> Self {
        Self {
            own: nix::unistd::geteuid().as_raw(),
            source: None,
            policy: None,
        }
    }

    /// By this file, from the start.
    pub(crate) fn start(&mut self, mut source: Source, endpoint: &mut Endpoint) -> Result<()> {
        let policy = source.read(self.own)?;
        log(&policy, &source);
        open(endpoint, &policy)?;
        self.policy = Some(policy);
        self.source = Some(source);
        Ok(())
    }

    /// By what this policy declares of topics. It is not read again.
    pub(crate) fn declare(&mut self, policy: Policy) {
        self.policy = Some(policy.into_topics());
    }

    /// The policy to start with.
    pub(crate) fn take_policy(&mut self) -> Policy {
        self.policy.take().unwrap_or_else(|| Policy::own(self.own))
    }

    /// The policy as it is now, if it can be followed.
    pub(crate) fn reload(&mut self, endpoint: &mut Endpoint) -> Option<Policy> {
        if self.source.is_none() {
            tracing::info!("told to read the policy again, and there is none");
            return None;
        }
        systemd::tell(State::Reloading);
        let policy = self.reread(endpoint);
        systemd::tell(State::Ready);
        policy
    }

    fn reread(&mut self, endpoint: &mut Endpoint) -> Option<Policy> {
        let source = self.source.as_mut()?;
        match source
            .read(self.own)
            .and_then(|policy| open(endpoint, &policy).map(|()| policy))
        {
            Ok(policy) => {
                log(&policy, source);
                Some(policy)
            }
            Err(error) => {
                // A line each: the log cuts long ones.
                for line in error.to_string().lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("the policy stays as it was");
                None
            }
        }
    }
}

fn log(policy: &Policy, source: &Source) {
    let file = list(source);
    if !source.is_required() {
        let user = policy.own_user();
        return tracing::info!("no policy at {file}: serving user {user} and nobody else");
    }
    tracing::info!(
        policy = %file,
        allow = policy.allow_rules().len(),
        topic = policy.topic_rules().len(),
        others = policy.serves_others(),
        "following the policy"
    );
}

/// The paths of a source, for people.
fn list(source: &Source) -> String {
    let paths = source.paths().iter();
    let paths: Vec<_> = paths.map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

/// Lets everybody connect to the socket where the policy serves others; else nobody else.
fn open(endpoint: &mut Endpoint, policy: &Policy) -> Result<()> {
    let others = policy.serves_others();
    endpoint.let_others_connect(others)?;
    let taken = policy.all_limits().default[Quota::Descriptors];
    if let Some(has) = crate::limits::descriptor_limit().filter(|has| others && *has <= taken) {
        tracing::warn!(
            "one user may take {taken} descriptors and this process has {has}: raise its limit (ulimit -n, LimitNOFILE=), or lower `descriptors` in [limits]"
        );
    }
    if others && let Some(directory) = unreachable_directory(endpoint.path()) {
        tracing::warn!(
            "other users cannot reach {}: they may not enter {}; chmod o+x it, or listen elsewhere (--socket)",
            endpoint.path().display(),
            directory.display()
        );
    }
    Ok(())
}

/// The directory on the way to the socket that others may not enter, if there is one.
fn unreachable_directory(socket: &Path) -> Option<&Path> {
    socket
        .ancestors()
        .skip(1)
        .find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 == 0))
}
