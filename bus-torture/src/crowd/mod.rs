//! A crowd: processes that send and read on many topics, and the books that are kept of what each of them said.
//!
//! Promises: every message is checked twice. Its reader checks that it is whole, that it is the next one of its publisher, and that the first
//! one is not too late. The run checks, in its books, that what each reader says follows from what it said before, that all readers of a publisher
//! come to the same end, and that this is what the publisher says that it sent. A process that ends unasked, or says nothing when it is
//! asked, is a violation.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `clock` | the clock that all processes share |
//! | `content` | messages that tell whether they are right |
//! | `topic` | kinds of topics: how they deliver, and what is sent on them |
//! | `lie` | what a worker does wrong on purpose, so that the checks are checked |
//! | `said` | what workers and the run say to each other |
//! | `post` | the worker's end of that |
//! | `ledger`, `desk` | a reader's own check, and what it holds |
//! | `sender`, `reader`, `pattern`, `states`, `broker` | the roles |
//! | `member` | the run's side of a process |
//! | `books` | what was said by everybody, and whether it adds up |
//! | `company`, `starting`, `asking` | all processes of a run |
//! | `vitals`, `flat` | memory and descriptors of processes, and whether they grow |

pub mod asking;
pub mod books;
pub mod broker;
pub mod clock;
pub mod company;
pub mod content;
pub mod desk;
pub mod flat;
pub mod ledger;
pub mod lie;
pub mod member;
pub mod pattern;
pub mod post;
pub mod reader;
pub mod said;
pub mod sender;
pub mod starting;
pub mod states;
pub mod topic;
pub mod vitals;

use crate::process::Role;

/// The roles of a crowd.
pub const ROLES: &[Role] = &[
    (broker::ROLE, broker::play),
    (sender::ROLE, |given| post::confess(sender::play(given))),
    (reader::ROLE, |given| post::confess(reader::play(given))),
    (pattern::ROLE, |given| post::confess(pattern::play(given))),
    (states::WRITER, |given| post::confess(states::write(given))),
    (states::READER, |given| post::confess(states::read(given))),
];
