//! What the programs for training that users know call things.

use std::fmt::Debug;

use fornax_cli::load;
use serde::de::DeserializeOwned;

/// What a recipe says of a key that is none.
fn unknown_key<C: DeserializeOwned + Debug>(name: &str) -> String {
    load::<C>(None, "", &[format!("{name}=1")]).unwrap_err().to_string()
}

/// Keys of Hugging Face's `TrainingArguments`, of nanoGPT and of torchtune, and ours in another table than theirs.
#[test]
fn names_of_other_programs_lead_to_keys_that_there_are() {
    for (name, meant) in [
        ("batch_size", "train.micro_batch_size"),
        ("bf16", "--precision bf16"),
        ("block_size", "objective.seq_len"),
        ("decay_lr", "schedule.name"),
        ("eval_interval", "train.eval_every"),
        ("eval_iters", "eval.max_batches"),
        ("eval_steps", "train.eval_every"),
        ("fp16", "--precision f16"),
        ("grad_clip", "optimizer.max_grad_norm"),
        ("gradient_accumulation_steps", "train.gradient_accumulation"),
        ("gradient_checkpointing", "train.checkpoint_blocks"),
        ("activation_checkpointing", "train.checkpoint_blocks"),
        ("adam_beta1", "optimizer.betas"),
        ("adam_beta2", "optimizer.betas"),
        ("adam_epsilon", "optimizer.eps"),
        ("auto_find_batch_size", "train.micro_batch_size"),
        ("beta1", "optimizer.betas"),
        ("beta2", "optimizer.betas"),
        ("dtype", "--precision"),
        ("eval_strategy", "train.eval_every"),
        ("init_from", "model.from"),
        ("learning_rate", "optimizer.lr"),
        ("load_best_model_at_end", "train.load_best_at_end"),
        ("log_interval", "train.log_every"),
        ("lr", "optimizer.lr"),
        ("train.lr", "optimizer.lr"),
        ("save_every", "checkpoint.save_every"),
        ("logging_steps", "train.log_every"),
        ("lr_decay_iters", "schedule.decay_steps"),
        ("lr_scheduler_type", "schedule.name"),
        ("max_grad_norm", "optimizer.max_grad_norm"),
        ("max_iters", "train.max_steps"),
        ("max_steps", "train.max_steps"),
        ("model_name_or_path", "model.from"),
        ("metric_for_best_model", "train.metric_for_best"),
        ("min_lr", "schedule.min_lr"),
        ("n_embd", "model.hidden_size"),
        ("n_head", "model.num_heads"),
        ("n_layer", "model.num_layers"),
        ("num_train_epochs", "train.max_epochs"),
        ("optim", "optimizer.name"),
        ("out_dir", "--run-dir"),
        ("output_dir", "--run-dir"),
        ("per_device_eval_batch_size", "eval.micro_batch_size"),
        ("per_device_train_batch_size", "train.micro_batch_size"),
        ("resume_from_checkpoint", "--resume"),
        ("save_steps", "checkpoint.save_every"),
        ("save_strategy", "checkpoint.save_every"),
        ("save_total_limit", "checkpoint.keep_last"),
        ("warmup_iters", "schedule.warmup_steps"),
        ("warmup_ratio", "schedule.warmup_ratio"),
        ("warmup_steps", "schedule.warmup_steps"),
        ("weight_decay", "optimizer.weight_decay"),
    ] {
        let says = format!("unknown key; did you mean `{meant}`?");
        let messages = [unknown_key::<gpt_lm::Config>(name), unknown_key::<bert_mlm::Config>(name)];
        assert!(messages.iter().all(|message| message.ends_with(&says)), "{messages:?} instead of {says}");
        if name != "block_size" {
            let rest = [unknown_key::<t5_text2text::Config>(name), unknown_key::<translate::Config>(name)];
            assert!(rest.iter().all(|message| message.ends_with(&says)), "{rest:?} instead of {says}");
        }
    }
    // A recipe that calls it something else, and one that has nothing of the kind.
    assert!(unknown_key::<glue::Config>("block_size").ends_with("did you mean `data.max_len`?"));
    assert!(unknown_key::<translate::Config>("block_size").contains("unknown key; known here: "));
    assert!(unknown_key::<translate::Config>("label_smoothing_factor").contains("`objective.label_smoothing`"));
    for has in [unknown_key::<translate::Config>, unknown_key::<t5_text2text::Config>] {
        assert!(
            has("max_source_length").ends_with("did you mean `data.max_source_len`?"),
            "{}",
            has("max_source_length")
        );
    }
}
