//! The integration tests of the client in one program, a module for each subject.
//!
//! They run at once, on threads of one process: a test here changes nothing that a whole process has, and counts nothing of it. A
//! test that lowers a limit, forks, changes its user, or counts descriptors does so in a process that plays a role: this
//! program again, with the test `role` of the module that starts it. These have programs of their own:
//!
//! | file | why |
//! | --- | --- |
//! | `tasks` | it is built only with the feature `tokio` |
//! | `lies` | it looks for its ring among all mappings of its process |
//! | `large` | it counts the memory of all rings of its process |
//! | `scarce` | its processes may have few descriptors, and fail when others pass many |

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod crowd;
mod cut_off;
mod deep;
mod delivery;
mod evicted;
mod foreign;
mod fork;
mod hello;
mod history;
mod hosts;
mod joins;
mod kills;
mod order;
mod orphans;
mod parked;
mod past;
mod patterns;
mod placement;
mod quiet;
mod restarts;
mod returns;
mod roaming;
mod schedules;
mod selector;
mod start_order;
mod state;
mod stopped;
mod takeovers;
mod threads;
mod users;
mod versions;
