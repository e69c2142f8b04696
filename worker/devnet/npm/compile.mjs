// Compiles the *.sol of a folder and prints {contract: artifact} as JSON.
// Usage: node compile.mjs <folder of node_modules with solc> <folder of the sources>
import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const [modules, sources] = process.argv.slice(2);
const solc = createRequire(join(modules, "solc", "package.json"))("solc");
const settings = {
  optimizer: { enabled: true, runs: 200 },
  viaIR: true,
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
};
const files = readdirSync(sources).filter((name) => name.endsWith(".sol")).sort();
const input = {
  language: "Solidity",
  sources: Object.fromEntries(
    files.map((name) => [name, { content: readFileSync(join(sources, name), "utf8") }]),
  ),
  settings,
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const problems = output.errors ?? [];
if (problems.length > 0) {
  console.error(problems.map((problem) => problem.formattedMessage).join("\n"));
  process.exit(1);
}
const { outputSelection, ...kept } = settings;
const artifacts = {};
for (const name of files) {
  const contract = name.replace(/\.sol$/, "");
  const compiled = output.contracts[name][contract];
  artifacts[contract] = {
    contract,
    source: name,
    compiler: solc.version(),
    settings: kept,
    abi: compiled.abi,
    deployedBytecode: "0x" + compiled.evm.deployedBytecode.object,
  };
}
process.stdout.write(JSON.stringify(artifacts));
