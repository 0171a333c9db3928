//! The integration tests of the broker in one program, a module for each subject.
//!
//! They run at once, on threads of one process: a test here changes nothing that a whole process has. Processes that join, and
//! processes of other users, are this program again with one ignored test to run. `stubborn` has a program of its own,
//! because it takes nearly all the descriptors that a process may have.

#[path = "../common/mod.rs"]
mod common;

mod decide;
mod declared;
mod foreign;
mod join;
mod namespaces;
mod notify;
mod policy;
mod policy_docs;
mod process;
mod quotas;
mod rates;
mod reclaim;
mod reclaim_claims;
mod reclaim_newcomers;
mod refuse;
mod retain;
mod retell;
mod service;
mod start_order;
mod stop;
mod users;
mod watch;
mod yields;
