//! The integration tests of the model checker in one program, a module for each subject.

mod gate;
mod models;
