//! Names that the same things have in other programs for training.

/// The keys for a name, other than their own, of Hugging Face's `TrainingArguments` and example scripts, of nanoGPT's `train.py` or of
/// torchtune, the best first: which of them a config has depends on the recipe. A flag begins with `--`.
pub(crate) fn keys_for(name: &str) -> &'static [&'static str] {
    match name {
        "auto_find_batch_size" | "batch_size" | "per_device_train_batch_size" => &["train.micro_batch_size"],
        "per_device_eval_batch_size" => &["eval.micro_batch_size"],
        "gradient_accumulation_steps" => &["train.gradient_accumulation"],
        "activation_checkpointing" | "enable_activation_checkpointing" | "gradient_checkpointing" => {
            &["train.checkpoint_blocks"]
        }
        "max_iters" => &["train.max_steps"],
        "num_train_epochs" => &["train.max_epochs"],
        "log_interval" | "logging_steps" => &["train.log_every"],
        "eval_interval" | "eval_steps" => &["train.eval_every"],
        "eval_iters" => &["eval.max_batches"],
        "save_steps" => &["checkpoint.save_every"],
        "save_total_limit" => &["checkpoint.keep_last"],
        "load_best_model_at_end" => &["train.load_best_at_end"],
        "metric_for_best_model" => &["train.metric_for_best"],
        "learning_rate" => &["optimizer.lr"],
        "grad_clip" => &["optimizer.max_grad_norm"],
        "decay_lr" | "lr_scheduler_type" => &["schedule.name"],
        "label_smoothing_factor" => &["objective.label_smoothing"],
        "max_source_length" => &["data.max_source_len"],
        "warmup_iters" => &["schedule.warmup_steps"],
        "lr_decay_iters" => &["schedule.decay_steps"],
        "n_layer" => &["model.num_layers"],
        "n_head" => &["model.num_heads"],
        "n_embd" => &["model.hidden_size"],
        "block_size" => &["objective.seq_len", "data.max_len"],
        "optim" => &["optimizer.name"],
        "adam_beta1" | "adam_beta2" | "beta1" | "beta2" => &["optimizer.betas"],
        "adam_epsilon" => &["optimizer.eps"],
        "eval_strategy" => &["train.eval_every"],
        "save_strategy" => &["checkpoint.save_every"],
        "max_length" | "max_seq_len" | "max_seq_length" => &["objective.seq_len", "data.max_len"],
        "model_name_or_path" | "init_from" => &["model.from"],
        "output_dir" | "out_dir" => &["--run-dir"],
        "resume_from_checkpoint" => &["--resume"],
        "dtype" => &["--precision"],
        "bf16" => &["--precision bf16"],
        "fp16" => &["--precision f16"],
        _ => &[],
    }
}
