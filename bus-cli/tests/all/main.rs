//! The integration tests of the command in one program, a module for each subject.
//!
//! They run at once, on threads of one process: a test here changes nothing that a whole process has. The command runs in
//! processes of its own.

mod common;

mod deliveries;
mod demo;
mod place;
mod policy;
mod refusals;
mod streams;
mod users;
mod verbose;
