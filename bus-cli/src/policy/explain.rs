//! `bus policy explain`.

use std::io::Write;
use std::path::{Path, PathBuf};

use bus_client::Error;
use bus_core::TopicName;
use bus_daemon::policy::{Policy, Quota, Right, Subject, group_name, list_settings, user_name};

use super::table::Table;
use super::{Broker, check, find, load};

/// Whom, where, by which policy.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The user, by name or number; with the groups that this machine gives it
    user: String,

    /// The topic
    topic: String,

    /// The policy [default: that which busd would read here: $BUS_POLICY, else bus.toml beside the socket, else /etc/bus/bus.toml]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    #[command(flatten)]
    broker: Broker,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let topic = TopicName::new(arguments.topic.as_str()).map_err(Error::Argument)?;
    let subject = find(&arguments.user)?;
    let (policy, file) = load(arguments.policy.as_deref(), &arguments.broker)?;
    let told = tell(&policy, file.as_deref(), &subject, &topic);
    std::io::stdout().lock().write_all(told.as_bytes())?;
    Ok(0)
}

fn tell(policy: &Policy, file: Option<&Path>, subject: &Subject, topic: &TopicName) -> String {
    let at = |line: usize| match file {
        Some(file) => format!("{}:{line}", file.display()),
        None => format!("line {line}"),
    };
    let groups: Vec<_> = subject.groups.iter().map(|gid| group_name(*gid)).collect();
    let own = subject.uid == policy.own_user();
    let mut text = format!("user    {}\n", user_name(subject.uid));
    if !groups.is_empty() {
        text.push_str(&format!("groups  {}\n", groups.join(", ")));
    }
    text.push_str(&format!("topic   {topic}\n\n"));

    let decision = policy.decide(subject, topic);
    let mut rights = Table::new(&["RIGHT", "", "BECAUSE OF"]);
    for right in Right::ALL {
        let because = match decision.rule(right) {
            Some(rule) => at(rule.line),
            None if own => "it runs the broker".into(),
            None if file.is_none() => "there is no policy: the broker's own user only".into(),
            None => "no [[allow]] rule says so".into(),
        };
        let may = if decision.may(right) { "yes" } else { "no" };
        rights.row(vec![right.to_string(), may.into(), because]);
    }
    if decision.may(Right::Publish) {
        let because = match decision.rule(Right::Publish) {
            Some(rule) => at(rule.line),
            None => "nothing says otherwise".into(),
        };
        rights.row(vec!["trust".into(), decision.trust().to_string(), because]);
    }
    if decision.may(Right::Subscribe) {
        let because = match decision.rule(Right::Subscribe) {
            _ if own => "it runs the broker".into(),
            Some(rule) => at(rule.line),
            None => "nothing says otherwise".into(),
        };
        let stall = if decision.stall() { "yes" } else { "no" };
        rights.row(vec!["stall".into(), stall.into(), because]);
    }
    text.push_str(&rights.to_string());

    let rule = policy.topic(topic);
    let mut settings = Table::new(&["SETTING", "", "BECAUSE OF"]);
    if let Some(rule) = rule {
        for (name, value) in list_settings(&rule.settings) {
            settings.row(vec![name.into(), value, at(rule.line)]);
        }
    }
    settings.row(vec![
        if rule.is_some() { "others" } else { "all" }.into(),
        "as its first opener asks".into(),
        "no [[topic]] rule says otherwise".into(),
    ]);
    text.push_str(&format!("\n{settings}"));

    let all = policy.all_limits();
    let limits = policy.limits(subject.uid);
    let mut table = Table::new(&["LIMIT", "", "BECAUSE OF"]);
    for quota in Quota::ALL {
        let because = match all.line(subject.uid, quota) {
            _ if own && all.rule(subject.uid).is_none() => "it runs the broker".into(),
            Some(line) => at(line),
            None => "nothing says otherwise".into(),
        };
        table.row(vec![
            quota.name().into(),
            check::shown(&limits, quota),
            because,
        ]);
    }
    text.push_str(&format!("\n{table}"));
    text
}
