use std::path::PathBuf;

/// What can go wrong between a text file and a batch. Every variant names the file or key and both sides of a mismatch.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A text file is not UTF-8.
    #[error("{path}: not UTF-8 at byte {offset}", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that does not fit, counted from 0.
        offset: u64,
    },
    /// There is no text to learn from.
    #[error("no text in {paths}: {reason}")]
    EmptyCorpus {
        /// The files and folders that were asked for.
        paths: String,
        /// What was found instead.
        reason: String,
    },
    /// A line or row can't be read.
    #[error("{path}:{line}{column}: {message}", path = path.display(), column = column.map(|it| format!(":{it}")).unwrap_or_default())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The byte in the line, counted from 1, where known.
        column: Option<u64>,
        /// What is wrong with it.
        message: String,
    },
    /// There is no column or language of this name.
    #[error("{place}: there is no column `{column}`; there is: {}", known.join(", "))]
    UnknownColumn {
        /// The file, with a line where one is concerned.
        place: String,
        /// The column asked for.
        column: String,
        /// All names.
        known: Vec<String>,
    },
    /// Files that should be parallel are not equally long.
    #[error("{first} has {first_lines} lines, {second} has {second_lines}", first = first.display(), second = second.display())]
    UnequalLines {
        /// A file.
        first: PathBuf,
        /// Its lines.
        first_lines: u64,
        /// The file that belongs to it.
        second: PathBuf,
        /// Its lines.
        second_lines: u64,
    },
    /// Files that should be parallel have names that say otherwise.
    #[error("{first} and {second} would be read side by side, but their names differ in more than the extension", first = first.display(), second = second.display())]
    UnpairedFiles {
        /// A file.
        first: PathBuf,
        /// The file at its place on the other side.
        second: PathBuf,
    },
    /// A key of one of `[[tasks]]` with a value that makes no sense.
    #[error("task `{task}`: `tasks.{key}` is {value}; expected {expected}")]
    TaskValue {
        /// The task.
        task: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// There is no task of this name.
    #[error("unknown task `{name}`; there is: {}", known.join(", "))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// All names.
        known: Vec<String>,
    },
    /// A label of a task has no word.
    #[error("{path}:{line}: task `{task}` has no word for the label `{label}`; it has words for: {known}", path = path.display())]
    MissingWord {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The task.
        task: String,
        /// The label.
        label: String,
        /// All labels that have a word.
        known: String,
    },
    /// A file is not as it was when it was opened.
    #[error("{path}: changed while it was in use: its text had {expected} bytes, now {found}", path = path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Bytes of text when it was opened.
        expected: u64,
        /// Bytes of text now.
        found: u64,
    },
    /// A source is too small for a train and a valid part.
    #[error("can't split {what} into train and valid: {reason}")]
    CannotSplit {
        /// The source.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Two keys of `[data]` that exclude each other.
    #[error("`{first}` and `{second}` can't both be set: {reason}")]
    ConfigConflict {
        /// One key.
        first: &'static str,
        /// The other key or what it is set to.
        second: String,
        /// Why.
        reason: &'static str,
    },
    /// A key of `[data]` that means nothing without another one.
    #[error("`{key}` is set, but neither `data.files` nor `data.name` is: {reason}")]
    ConfigAlone {
        /// The key.
        key: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A key of `[data]` with a value that makes no sense.
    #[error("`{key}` is {value}; expected {expected}")]
    ConfigValue {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// There is no data set of this name.
    #[error("unknown data set `{name}`; there is: {known}")]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The data set has no such split.
    #[error("data set `{name}` has no split `{split}`")]
    UnknownSplit {
        /// The data set.
        name: String,
        /// The split asked for.
        split: crate::source::Split,
    },
    /// A `dataset.toml` can't be understood.
    #[error("datasets/{name}/dataset.toml: {message}")]
    Descriptor {
        /// The data set.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A file of a data set is there, but with other bytes.
    #[error("{path}: sha256 is {found}, the data set says {expected}", path = path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The sha256 in `dataset.toml`.
        expected: String,
        /// The file's.
        found: String,
    },
    /// A file of an archive is there, but with another number of lines.
    #[error("{path}: has {found} lines that are not blank, the data set says {expected}", path = path.display())]
    LineCount {
        /// The file.
        path: PathBuf,
        /// The lines in `dataset.toml`.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// An archive can't be unpacked.
    #[error("{path}: not a usable archive: {reason}", path = path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A download failed for good.
    #[error("can't download {url}: {reason}")]
    Download {
        /// The file's address.
        url: String,
        /// What went wrong last.
        reason: String,
        /// A folder to put the file into by hand.
        folder: PathBuf,
    },
    /// A file of a data set is not in the folder that the config names.
    #[error("{folder}: there is no `{file}` of the data set `{name}` in it, and with `data.folder` no other place is looked into", folder = folder.display())]
    NotInFolder {
        /// The folder.
        folder: PathBuf,
        /// The file's name.
        file: String,
        /// The data set.
        name: String,
        /// Where the file, or the archive that holds it, can be downloaded.
        url: String,
    },
    /// The files of a GLUE task are nowhere.
    #[error("the files of the GLUE task {task} ({files}) are in none of: {searched}{reason}")]
    TaskFiles {
        /// The task's title.
        task: &'static str,
        /// Their names.
        files: String,
        /// The folders that were searched.
        searched: String,
        /// Why they could not be downloaded, where that was tried.
        reason: String,
        /// Where they can be had.
        source_url: &'static str,
    },
    /// A tokenizer has no token that could separate texts.
    #[error("the tokenizer has no special token to put behind a text, neither [SEP] nor </s> nor <|endoftext|>")]
    NoSeparator,
    /// Predictions do not fit what a submission needs.
    #[error("can't write {path}: {reason}", path = path.display())]
    Submission {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A crate of the embedded corpus is nowhere.
    #[error("crate {name} {version} of the data set `rust-crates` is in none of: {searched}")]
    CrateMissing {
        /// The crate.
        name: String,
        /// Its version.
        version: String,
        /// The folders that were searched.
        searched: String,
    },
    /// A crate of the embedded corpus has other contents.
    #[error("{path}: crate {name} {version} of the data set `rust-crates` was altered: sha256 is {found}, not {expected}", path = path.display())]
    CrateChanged {
        /// The crate.
        name: String,
        /// Its version.
        version: String,
        /// Its folder.
        path: PathBuf,
        /// The sha256 in the list.
        expected: String,
        /// The folder's.
        found: String,
    },
    /// A folder has no tokenizer in it.
    #[error("{folder}: no tokenizer here: neither tokenizer.json, nor vocab.json with merges.txt, nor vocab.txt, nor spiece.model", folder = folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A tokenizer file can't be used.
    #[error("{path}: not a usable tokenizer: {reason}", path = path.display())]
    InvalidTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer can't be trained.
    #[error("can't train a {kind} tokenizer on {corpus}: {reason}")]
    TokenizerTraining {
        /// The kind asked for.
        kind: crate::tokenizer::TokenizerKind,
        /// The text.
        corpus: String,
        /// What is in the way.
        reason: String,
    },
    /// A tokenizer lacks a token that an objective or a model is made of.
    #[error("the tokenizer has no token {} (or {})", names[0], names[1])]
    MissingSpecialToken {
        /// What BERT's family and what RoBERTa's calls it.
        names: [&'static str; 2],
    },
    /// A text has a character for which there is no token.
    #[error("{document}the character {character:?} (U+{code:04X}) is not in the tokenizer's vocabulary", document = prefix(document), code = u32::from(*character))]
    UnknownCharacter {
        /// The character.
        character: char,
        /// The document's name; empty where the text has none.
        document: String,
    },
    /// A text can't be turned into tokens.
    #[error("{document}can't be turned into tokens: {reason}", document = prefix(document))]
    Encode {
        /// The document's name; empty where the text has none.
        document: String,
        /// What the tokenizer said.
        reason: String,
    },
    /// Tokens can't be turned into text.
    #[error("can't turn tokens into text: {reason}")]
    Decode {
        /// What the tokenizer said.
        reason: String,
    },
    /// A token store is damaged.
    #[error("{folder}: the token store is damaged: {reason}", folder = folder.display())]
    CorruptStore {
        /// The store's folder.
        folder: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file was written by a newer version of this program.
    #[error("{path}: format_version is {found}, this build reads up to {supported}", path = path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        supported: u32,
    },
    /// A text is shorter than one block.
    #[error("the corpus ({corpus}) has {tokens} tokens, but one block of seq_len {seq_len} needs {needed}")]
    CorpusTooShort {
        /// The text.
        corpus: String,
        /// Tokens that it has.
        tokens: u64,
        /// Tokens that a block and the target of its last position take.
        needed: u64,
        /// Positions of a block.
        seq_len: usize,
    },
    /// There are no two sentences to make a pair of.
    #[error(
        "the corpus ({corpus}) has {documents} documents of {shortest} tokens or more, but sentence pairs need {needed}"
    )]
    TooFewDocuments {
        /// The text.
        corpus: String,
        /// Documents that are long enough.
        documents: u64,
        /// Tokens of a document that is long enough.
        shortest: u64,
        /// Documents that it takes.
        needed: u64,
    },
    /// A block has more hidden spans than there are tokens to stand for them.
    #[error("a block of {block} tokens has {needed} hidden spans, but the tokenizer has {sentinels} sentinel tokens")]
    TooFewSentinels {
        /// Tokens of the block.
        block: usize,
        /// Hidden spans of it.
        needed: usize,
        /// Sentinels of the tokenizer.
        sentinels: usize,
    },
    /// A step takes more examples than there are.
    #[error(
        "one step takes {step} examples (micro_batch_size {micro_batch_size} x gradient_accumulation {gradient_accumulation}), \
         but the data set has {examples}",
        step = *micro_batch_size as u64 * *gradient_accumulation as u64
    )]
    TooFewExamples {
        /// Examples that there are.
        examples: u64,
        /// Examples of a micro-batch.
        micro_batch_size: usize,
        /// Micro-batches of a step.
        gradient_accumulation: usize,
    },
    /// The system refuses a thread.
    #[error("can't start a data loader thread: {reason}")]
    LoaderThread {
        /// What the operating system said.
        reason: String,
    },
    /// Code that makes batches has a defect.
    #[error("making the batches of step {step} failed inside: {message}")]
    LoaderPanic {
        /// The step.
        step: u64,
        /// What the panic said.
        message: String,
    },
}

/// `name: ` in front of a message, or nothing.
fn prefix(document: &str) -> String {
    if document.is_empty() { String::new() } else { format!("{document}: ") }
}

impl DataError {
    /// Wraps an I/O error with the path it concerns: `.map_err(DataError::io(path))`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotUtf8 { .. } => Some("convert the file to UTF-8, for instance with iconv".into()),
            Self::UnknownColumn { column: name, known, .. } | Self::UnknownTask { name, known } => {
                crate::closest(name, known.iter().map(String::as_str)).map(|name| format!("did you mean `{name}`?"))
            }
            Self::UnequalLines { .. } => Some(
                "line i of one file belongs to line i of the other; a line end inside a sentence moves all that follow".into(),
            ),
            Self::UnpairedFiles { .. } => {
                Some("name files that belong together alike, as train.1.de and train.1.en".into())
            }
            Self::MissingWord { label, .. } => {
                Some(format!("give it one: in tasks.words, as `\"{label}\" = \"WORD\"`; or correct the file"))
            }
            Self::Checksum { path, .. } | Self::LineCount { path, .. } => Some(format!(
                "the file was changed or is another version; move {} away to have it downloaded again",
                path.display()
            )),
            Self::Download { url, folder, .. } => Some(format!(
                "offline? put the file from {url} into {}; for text without labels there is the embedded data set, which needs no \
                 download: data.name = \"rust-crates\"",
                folder.display()
            )),
            Self::NotInFolder { folder, file, url, .. } => Some(format!(
                "put {file} into {} (it comes from {url}), or leave data.folder out: the usual places are looked into then, and \
                 what lacks is downloaded",
                folder.display()
            )),
            Self::TaskFiles { source_url, .. } => {
                Some(format!("get them from {source_url}, unpack them, and name their folder: data.folder = \"DIR\""))
            }
            Self::NoSeparator => {
                Some("take a tokenizer that has one: `kind = \"wordpiece\"`, or `end_of_text = true`".into())
            }
            Self::CrateMissing { .. } => {
                Some(
                    "run `cargo fetch` in the workspace: it unpacks the crates into cargo's registry folder, which is looked into \
                     unless data.folder is set"
                        .into(),
                )
            }
            Self::CrateChanged { path, .. } => {
                Some(format!("delete {} and run `cargo fetch` in the workspace", path.display()))
            }
            Self::MissingSpecialToken { .. } => Some(
                "take `tokenizer.kind = \"wordpiece\"`, or the tokenizer of a BERT or RoBERTa model as `tokenizer.from`".into(),
            ),
            Self::UnknownCharacter { .. } => Some(
                "train the tokenizer on a text that has it, or take `kind = \"byte\"` or `kind = \"byte-bpe\"`".into(),
            ),
            Self::CorruptStore { folder, .. } => {
                Some(format!("delete {}: it is made again when needed", folder.display()))
            }
            Self::NewerFormat { .. } => Some("update Fornax, or take another cache folder".into()),
            Self::CorpusTooShort { .. } => Some("take more text or a smaller objective.seq_len".into()),
            Self::TooFewDocuments { .. } => Some(
                "give the text as several documents (files, records), or take masked language modelling without sentence pairs"
                    .into(),
            ),
            Self::TooFewSentinels { .. } => Some(
                "lower objective.seq_len or objective.noise_density, raise objective.mean_span_length, or take a tokenizer with more \
                 of <extra_id_0>, <extra_id_1>, ..."
                    .into(),
            ),
            Self::TooFewExamples { .. } => {
                Some("lower train.micro_batch_size or train.gradient_accumulation, or take more data".into())
            }
            _ => None,
        }
    }

    /// Adds the document's name to an error about a text.
    pub(crate) fn in_document(mut self, name: &str) -> Self {
        if let Self::UnknownCharacter { document, .. } | Self::Encode { document, .. } = &mut self {
            name.clone_into(document);
        }
        self
    }
}
