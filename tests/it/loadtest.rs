//! The load kit: its documented commands, run as they stand at 5 × 100, and what `kollect-lab verify` finds when something is
//! wrong; the generator beside the program that writes the same objects; the tiers, and who may call which.

mod commands;
mod filters;
mod generate;
mod tiers;
