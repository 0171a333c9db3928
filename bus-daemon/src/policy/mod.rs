//! The policy: who may do what on which topics, what topics are like, and how much of the broker a user may take.
//!
//! ```text
//!  source    where it comes from: a file that only its owner may write, or nowhere
//!  reader    tables with places      problem   what is wrong, FILE:LINE:COLUMN
//!  users     names, numbers, groups  allow     [[allow]]
//!  topics    [[topic]]               limits    [limits], [[limits.user]]
//! ```
//! Promises: what is not allowed is not; without a file the broker's own user may do everything and nobody else anything. Root is no
//! exception. Rules are asked in the order of the file, and the first that matches decides. A file with a mistake is no policy, and
//! all of its mistakes are told at once. `docs/policy.md` is the manual.
//!
//! ```
//! use std::path::Path;
//! use bus_daemon::policy::{Policy, Right, Subject};
//! let text = r#"
//! [[allow]]
//! topics = ["market/**"]
//! users = [1001]
//! may = ["subscribe"]
//! "#;
//! let policy = Policy::parse(Path::new("bus.toml"), text, 1000)?;
//! let (user, topic) = (Subject { uid: 1001, groups: vec![] }, bus_core::TopicName::new("market/eu")?);
//! let decision = policy.decide(&user, &topic);
//! assert!(decision.may(Right::Subscribe) && !decision.may(Right::Publish));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allow;
mod limits;
mod problem;
mod reader;
mod source;
mod topics;
mod users;

use std::path::{Path, PathBuf};

use bus_core::TopicName;
use bus_core::control::Trust;
use toml::de::DeTable;

pub use allow::{AllowRule, Right};
pub use limits::{AllLimits, Limits, Quota, UserLimits};
pub use problem::{Problem, Problems};
pub use source::Source;
pub use topics::{Conflict, TopicRule, list_settings};
pub use users::{Subject, Who, group_name, user_name};

use reader::Reader;

/// What a broker allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it was read.
    file: Option<PathBuf>,
    own: u32,
    allow: Vec<AllowRule>,
    topics: Vec<TopicRule>,
    limits: AllLimits,
}

/// What a user may do on a topic, and which rules say so.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'p> {
    own: bool,
    rules: [Option<&'p AllowRule>; 3],
}

impl Policy {
    /// The policy without a file: this user may do everything, and nobody else anything.
    pub fn own(uid: u32) -> Self {
        Self {
            file: None,
            own: uid,
            allow: Vec::new(),
            topics: Vec::new(),
            limits: AllLimits::default(),
        }
    }

    /// Reads a policy. `file` is for the errors, `own` the broker's user.
    ///
    /// # Errors
    /// Everything that is wrong with it, with line and column.
    pub fn parse(file: &Path, text: &str, own: u32) -> Result<Self, Problems> {
        let mut reader = Reader::new(file, text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                let at = error.span().map_or(0, |span| span.start);
                reader.wrong(at, format!("this is no TOML: {}", error.message()));
            }
            return reader.finish(Self::own(own));
        }
        let root = reader.table("a policy", 0, root.get_ref(), &["allow", "topic", "limits"]);
        let policy = Self {
            file: Some(file.to_owned()),
            own,
            allow: AllowRule::read_all(&mut reader, &root),
            topics: TopicRule::read_all(&mut reader, &root),
            limits: AllLimits::read(&mut reader, &root),
        };
        reader.finish(policy)
    }

    /// What it declares of topics, for a broker that serves its own user and nobody else.
    pub(crate) fn into_topics(self) -> Self {
        Self {
            file: self.file,
            topics: self.topics,
            ..Self::own(self.own)
        }
    }

    /// The broker's own user.
    pub fn own_user(&self) -> u32 {
        self.own
    }

    /// Its `[[allow]]` rules, in order.
    pub fn allow_rules(&self) -> &[AllowRule] {
        &self.allow
    }

    /// Its `[[topic]]` rules, in order.
    pub fn topic_rules(&self) -> &[TopicRule] {
        &self.topics
    }

    /// Its limits.
    pub fn all_limits(&self) -> &AllLimits {
        &self.limits
    }

    /// Whether it allows anything to anybody but the broker's own user.
    pub fn serves_others(&self) -> bool {
        self.allow
            .iter()
            .any(|rule| rule.who.includes_others(self.own))
    }

    /// Whether it allows this user anything at all.
    pub fn knows(&self, subject: &Subject) -> bool {
        subject.uid == self.own || self.allow.iter().any(|rule| rule.who.includes(subject))
    }

    /// What a user may do on a topic.
    pub fn decide(&self, subject: &Subject, topic: &TopicName) -> Decision<'_> {
        let rules = Right::ALL.map(|right| {
            self.allow.iter().find(|rule| {
                rule.may.contains(&right) && rule.who.includes(subject) && rule.matches(topic)
            })
        });
        Decision {
            own: subject.uid == self.own,
            rules,
        }
    }

    /// The rule that decides what a topic is like, if there is one.
    pub fn topic(&self, topic: &TopicName) -> Option<&TopicRule> {
        self.topics.iter().find(|rule| rule.matches(topic))
    }

    /// Where the policy declares that a topic has this value of a setting, as `FILE:LINE`; none where it does not.
    pub fn declaration(&self, topic: &TopicName, setting: &str, value: &str) -> Option<String> {
        let rule = self.topic(topic)?;
        let mut declared = list_settings(&rule.settings).into_iter();
        declared.find(|(name, has)| *name == setting && has == value)?;
        let file = self.file.as_deref().unwrap_or(Path::new("the policy"));
        Some(format!("{}:{}", file.display(), rule.line))
    }

    /// How much of the broker a user may take.
    pub fn limits(&self, uid: u32) -> Limits {
        match self.limits.rule(uid) {
            Some(rule) => rule.limits,
            None if uid == self.own => Limits::OWN,
            None => self.limits.default,
        }
    }
}

impl<'p> Decision<'p> {
    /// Whether the user may do this.
    pub fn may(&self, right: Right) -> bool {
        self.own || self.rules[right as usize].is_some()
    }

    /// The rule that allows it; none where it is not allowed, and where the user is the broker's own and no rule names it.
    pub fn rule(&self, right: Right) -> Option<&'p AllowRule> {
        self.rules[right as usize]
    }

    /// How subscribers of other users read what the user publishes there.
    pub fn trust(&self) -> Trust {
        self.rule(Right::Publish)
            .map_or(Trust::Copy, |rule| rule.trust)
    }

    /// Whether the user's subscribers may hold up publishers of other users there. The broker's own may.
    pub fn stall(&self) -> bool {
        self.own || self.rule(Right::Subscribe).is_some_and(|rule| rule.stall)
    }
}
