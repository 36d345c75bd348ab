use crate::{
    BertConfig, BertFamily, ClassifierConfig, Pooling,
    hf::{Demand, Entry, Layout, TensorTable},
};

/// The heads that a table may have besides the encoder.
#[derive(Clone, Copy, Debug)]
pub(in crate::hf) enum Head<'a> {
    /// The encoder alone, written without a prefix.
    None,
    MaskedLm,
    PreTraining,
    /// With the flag that lets a checkpoint with another number of classes have its last layer replaced.
    Classifier(&'a ClassifierConfig, bool),
}

/// Each parameter's name.
pub(in crate::hf) fn bert_table(config: &BertConfig, head: Head<'_>) -> TensorTable {
    let prefix = prefix(config.family);
    let (ours, theirs) = if matches!(head, Head::None) { ("", "") } else { ("bert.", prefix) };
    let mut names = Names { ours, theirs, demand: Demand::Required, entries: Vec::new() };
    names.encoder(config);
    let mut table = TensorTable {
        prefix,
        entries: Vec::new(),
        zeros: Vec::new(),
        tied: Vec::new(),
        renamed: &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")],
        is_buffer: |name| matches!(name, "embeddings.position_ids" | "embeddings.token_type_ids"),
        is_foreign,
    };
    if config.type_vocab_size == 0 && config.family != BertFamily::DistilBert {
        // The other side always has token types: of the one that remains, the vector is zero.
        let name = format!("{theirs}embeddings.token_type_embeddings.weight");
        table.zeros.push((name, vec![1, config.hidden_size]));
    }
    // What a head lacks is to be trained.
    let mut names = Names { ours: "", theirs: "", demand: Demand::Optional, entries: names.entries };
    match head {
        Head::None => {}
        Head::MaskedLm => {
            names.masked_lm(config.family);
            table.tied = tied(config.family);
        }
        Head::PreTraining => {
            names.masked_lm(config.family);
            table.tied = tied(config.family);
            names.linear("pooler", "bert.pooler.dense");
            names.linear("next_sentence", "cls.seq_relationship");
        }
        Head::Classifier(classifier, replaceable) => names.classifier(config.family, classifier.pooling, replaceable),
    }
    table.entries = names.entries;
    table
}

/// What models with a head put in front of the encoder's names.
fn prefix(family: BertFamily) -> &'static str {
    match family {
        BertFamily::Bert => "bert.",
        BertFamily::Roberta => "roberta.",
        BertFamily::DistilBert => "distilbert.",
    }
}

/// Whether a stored name is outside the encoder. The pooler is inside it on the other side, but part of a head here.
fn is_foreign(name: &str) -> bool {
    let prefixes = ["bert.", "roberta.", "distilbert."];
    match prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(bare) => bare.starts_with("pooler."),
        None => !["embeddings.", "encoder.", "transformer."].iter().any(|part| name.starts_with(part)),
    }
}

/// Copies of the token embedding and of the head's bias that files may have.
fn tied(family: BertFamily) -> Vec<(&'static str, &'static str)> {
    const TOKENS: &str = "embeddings.word_embeddings.weight";
    match family {
        BertFamily::Bert => {
            vec![("cls.predictions.decoder.weight", TOKENS), ("cls.predictions.decoder.bias", "cls.predictions.bias")]
        }
        BertFamily::Roberta => vec![("lm_head.decoder.weight", TOKENS), ("lm_head.decoder.bias", "lm_head.bias")],
        BertFamily::DistilBert => vec![("vocab_projector.weight", TOKENS)],
    }
}

/// The linear maps of one of our blocks.
const OUR_LINEARS: [&str; 6] =
    ["attention.query", "attention.key", "attention.value", "attention.output", "feed_forward.up", "feed_forward.down"];

/// Entries under a pair of prefixes.
struct Names {
    ours: &'static str,
    theirs: &'static str,
    demand: Demand,
    entries: Vec<Entry>,
}

impl Names {
    fn push(&mut self, ours: &str, theirs: &str, layout: Layout) {
        let (path, name) = (format!("{}{ours}", self.ours), format!("{}{theirs}", self.theirs));
        self.entries.push(Entry { path, name, layout, demand: self.demand });
    }

    fn linear(&mut self, ours: &str, theirs: &str) {
        self.push(&format!("{ours}.weight"), &format!("{theirs}.weight"), Layout::Transposed);
        self.push(&format!("{ours}.bias"), &format!("{theirs}.bias"), Layout::Same);
    }

    fn norm(&mut self, ours: &str, theirs: &str) {
        self.push(&format!("{ours}.gamma"), &format!("{theirs}.weight"), Layout::Same);
        self.push(&format!("{ours}.beta"), &format!("{theirs}.bias"), Layout::Same);
    }

    fn encoder(&mut self, config: &BertConfig) {
        let mut embeddings = vec![("token", "word"), ("position", "position")];
        if config.type_vocab_size > 0 {
            embeddings.push(("token_type", "token_type"));
        }
        for (ours, theirs) in embeddings {
            let theirs = format!("embeddings.{theirs}_embeddings.weight");
            self.push(&format!("{ours}_embedding.weight"), &theirs, Layout::Same);
        }
        self.norm("embedding_norm", "embeddings.LayerNorm");
        let (blocks, linears, norms) = match config.family {
            BertFamily::Bert | BertFamily::Roberta => (
                "encoder.layer",
                [
                    "attention.self.query",
                    "attention.self.key",
                    "attention.self.value",
                    "attention.output.dense",
                    "intermediate.dense",
                    "output.dense",
                ],
                ["attention.output.LayerNorm", "output.LayerNorm"],
            ),
            BertFamily::DistilBert => (
                "transformer.layer",
                ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
                ["sa_layer_norm", "output_layer_norm"],
            ),
        };
        for i in 0..config.num_layers {
            for (ours, theirs) in OUR_LINEARS.into_iter().zip(linears) {
                self.linear(&format!("blocks.{i}.{ours}"), &format!("{blocks}.{i}.{theirs}"));
            }
            for (ours, theirs) in ["attention_norm", "feed_forward_norm"].into_iter().zip(norms) {
                self.norm(&format!("blocks.{i}.{ours}"), &format!("{blocks}.{i}.{theirs}"));
            }
        }
    }

    fn masked_lm(&mut self, family: BertFamily) {
        let (transform, norm, bias) = match family {
            BertFamily::Bert => {
                ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
            }
            BertFamily::Roberta => ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
            BertFamily::DistilBert => ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        };
        self.linear("head.transform", transform);
        self.norm("head.norm", norm);
        self.push("head.bias", bias, Layout::Same);
    }

    fn classifier(&mut self, family: BertFamily, pooling: Pooling, replaceable: bool) {
        let (dense, classifier) = match family {
            BertFamily::Bert => ("bert.pooler.dense", "classifier"),
            BertFamily::Roberta => ("classifier.dense", "classifier.out_proj"),
            BertFamily::DistilBert => ("pre_classifier", "classifier"),
        };
        if pooling == Pooling::Cls {
            self.linear("head.dense", dense);
        }
        if replaceable {
            self.demand = Demand::Replaceable;
        }
        self.linear("head.classifier", classifier);
    }
}
