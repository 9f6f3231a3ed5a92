// Makes music of a text: node music.mjs FOLDER MODEL TEXT TOKENS GUIDANCE RESULTS.json
import { writeFileSync } from 'node:fs';
import { AutoTokenizer, env, MusicgenForConditionalGeneration } from '@huggingface/transformers';

const [folder, name, text, tokens, guidance, output] = process.argv.slice(2);
env.localModelPath = folder;
env.allowRemoteModels = false;
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await MusicgenForConditionalGeneration.from_pretrained(name, { dtype: 'fp32' });
const options = { max_new_tokens: Number(tokens), do_sample: false, guidance_scale: Number(guidance) };
const audio = await model.generate({ ...(await tokenizer(text)), ...options });
writeFileSync(output, JSON.stringify({ dims: audio.dims, data: Array.from(audio.data) }));
