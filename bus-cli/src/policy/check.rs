//! `bus policy check`.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use bus_daemon::policy::{Limits, Policy, Quota, Right, list_settings, user_name};

use super::table::Table;
use super::{Broker, load};

/// Which policy.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The policy [default: that which busd would read here: $BUS_POLICY, else bus.toml beside the socket, else /etc/bus/bus.toml]
    file: Option<PathBuf>,

    #[command(flatten)]
    broker: Broker,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let (policy, file) = match load(arguments.file.as_deref(), &arguments.broker) {
        Ok(loaded) => loaded,
        Err(error) => match error.downcast::<bus_daemon::policy::Problems>() {
            // A line each, as compilers do, so that editors find the places.
            Ok(problems) => {
                eprintln!("{problems}");
                return Ok(1);
            }
            Err(error) => return Err(error),
        },
    };
    let mut out = std::io::stdout().lock();
    match file {
        Some(file) => writeln!(out, "{}: no mistakes\n", file.display())?,
        None => writeln!(out, "there is no policy: the broker's own user only\n")?,
    }
    write!(out, "{}", tell(&policy))?;
    Ok(0)
}

fn tell(policy: &Policy) -> String {
    let mut allowed = Table::new(&["LINE", "WHO", "MAY", "TOPICS", "TRUST", "STALL"]);
    for rule in policy.allow_rules() {
        let has = |right| rule.may.contains(&right);
        let trust = has(Right::Publish).then(|| rule.trust.to_string());
        let stall = has(Right::Subscribe).then(|| if rule.stall { "yes" } else { "no" }.to_owned());
        allowed.row(vec![
            rule.line.to_string(),
            rule.who.to_string(),
            join(&rule.may, ", "),
            join(&rule.topics, ", "),
            trust.unwrap_or_else(|| "-".into()),
            stall.unwrap_or_else(|| "-".into()),
        ]);
    }
    let own = user_name(policy.own_user());
    allowed.row(vec![
        "-".into(),
        format!("{own}, who runs the broker"),
        join(&Right::ALL, ", "),
        "**".into(),
        "copy".into(),
        "yes".into(),
    ]);
    let mut text = format!("{allowed}");
    if !policy.topic_rules().is_empty() {
        let mut topics = Table::new(&["LINE", "TOPICS", "SETTINGS"]);
        for rule in policy.topic_rules() {
            let settings = list_settings(&rule.settings);
            let settings: Vec<_> = settings
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            topics.row(vec![
                rule.line.to_string(),
                join(&rule.topics, ", "),
                settings.join(", "),
            ]);
        }
        text.push_str(&format!("\n{topics}"));
    }
    let mut heading = vec!["LINE", "LIMITS OF"];
    heading.extend(Quota::ALL.map(|quota| quota.name()));
    let mut limits = Table::new(&heading);
    let all = policy.all_limits();
    for rule in &all.users {
        let users: Vec<_> = rule.users.iter().map(|uid| user_name(*uid)).collect();
        limits.row(row_of_limits(
            rule.line.to_string(),
            users.join(", "),
            &rule.limits,
        ));
    }
    if all.rule(policy.own_user()).is_none() {
        limits.row(row_of_limits("-".into(), own, &Limits::OWN));
    }
    limits.row(row_of_limits(
        "-".into(),
        "every other user".into(),
        &all.default,
    ));
    text.push_str(&format!("\n{limits}"));
    text
}

fn row_of_limits(line: String, who: String, limits: &Limits) -> Vec<String> {
    let mut row = vec![line, who];
    row.extend(Quota::ALL.map(|quota| shown(limits, quota)));
    row
}

/// A limit as people read it.
pub(super) fn shown(limits: &Limits, quota: Quota) -> String {
    let limit = limits[quota];
    match quota {
        Quota::Bytes if limit >= 1 << 40 && limit.is_multiple_of(1 << 40) => {
            format!("{}T", limit >> 40)
        }
        Quota::Bytes if limit >= 1 << 30 && limit.is_multiple_of(1 << 30) => {
            format!("{}G", limit >> 30)
        }
        Quota::Bytes if limit >= 1 << 20 && limit.is_multiple_of(1 << 20) => {
            format!("{}M", limit >> 20)
        }
        Quota::Registrations => format!("{limit}/s"),
        _ => limit.to_string(),
    }
}

fn join(all: &[impl Display], between: &str) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(between)
}
