//! What the tests across processes share.
//!
//! A test starts its own binary again, once for each role that it needs: [`process`] is the side of the test,
//! [`role`] the side of the process that plays. They talk in lines over pipes, so nobody sleeps to be in step; every wait
//! ends after a watchdog's time, which fails the test and does nothing else.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `process` | starting, telling, hearing, and killing a process |
//! | `role` | what a started process knows, says, and hears |
//! | `roles` | the roles that several tests use |
//! | `passing` | roles on topics where publishers go past subscribers |
//! | `hosted` | a stage whose broker has a process of its own |
//! | `fork` | children of real forks |
//! | `content` | messages that tell whether they are right |
//! | `ledger` | the check that each publisher's messages come whole, in order, without a gap |
//! | `tally` | the same where publishers go past: what was received and what was lost add up |
//! | `stops` | stopping a process, asleep or at any moment, and letting it go on |
//! | `stage` | a place for a broker, and what errors tell |
//! | `chance` | random choices that can be made again |

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod chance;
pub mod content;
pub mod fork;
pub mod hosted;
pub mod ledger;
pub mod passing;
pub mod process;
pub mod role;
pub mod roles;
pub mod stage;
pub mod stops;
pub mod tally;
