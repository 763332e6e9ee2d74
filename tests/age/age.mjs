// Speaks for the packages age-encryption and cctv-age of npm: keys, files and vectors, by verbs, from input to output.
import { readFileSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import * as age from "age-encryption"

const [verb, ...values] = process.argv.slice(2)
const say = (bytes) => {
    for (let at = 0; at < bytes.length; ) {
        at += writeSync(1, bytes, at)
    }
}
const line = (text) => say(Buffer.from(`${text}\n`))
const input = () => new Uint8Array(readFileSync(0))

if (verb === "keygen") {
    line(await (values[0] === "hybrid" ? age.generateHybridIdentity() : age.generateX25519Identity()))
} else if (verb === "recipient") {
    line(await age.identityToRecipient(values[0]))
} else if (verb === "encrypt") {
    const encrypter = new age.Encrypter()
    values.forEach((recipient) => encrypter.addRecipient(recipient))
    say(await encrypter.encrypt(input()))
} else if (verb === "decrypt") {
    const decrypter = new age.Decrypter()
    values.forEach((identity) => decrypter.addIdentity(identity))
    say(await decrypter.decrypt(input()))
} else if (verb === "vectors") {
    const vectors = await import("cctv-age")
    for (const [name, bytes] of Object.entries(vectors)) {
        writeFileSync(join(values[0], name), bytes)
    }
} else {
    throw new Error(`unknown verb: ${verb}`)
}
