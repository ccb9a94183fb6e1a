// Greets whoever calls: an ordinary AWS Lambda handler as an ES module.

const greeting = process.env.GREETING ?? "Hi"; // from hearth.toml
let calls = 0; // module state lives as long as the sandbox: good for caches, not for data

export const handler = async (event, context) => {
  const name = event.queryStringParameters?.name ?? event.name ?? "world";
  calls += 1;
  console.log(`greeting ${name}, call ${calls} of this sandbox`);
  return {
    message: `${greeting}, ${name}!`,
    function: context.functionName,
    node: process.version,
  };
};
