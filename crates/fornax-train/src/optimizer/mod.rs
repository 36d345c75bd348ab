//! Optimizers: one type each, a pass over the module that takes gradients out of Burn's container.

mod adamw;

pub(crate) use adamw::{AdamW, Update};
